#include "text/typescript_tools.h"

#include <algorithm>
#include <array>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "text/json_util.h"

namespace conclave::text {
namespace {

constexpr std::string_view kIndent = "  ";
constexpr std::string_view kDefinitions = "#/$defs/";

// What one function's schema refers to.
struct References {
  std::vector<std::pair<std::string, const Json*>> definitions;  // in order of appearance
  bool to_root = false;
};

std::string joined(std::span<const std::string> parts, std::string_view separator) {
  std::string out;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out += separator;
    out += parts[i];
  }
  return out;
}

// As Python's str() prints it inside an f-string.
std::string python_text(const Json& value) {
  if (value.is_string()) return value.get_ref<const std::string&>();
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_null()) return "None";
  return python_json(value);
}

// Each line as a comment; empty lines stay empty.
std::string comment(std::string_view text, std::string_view indent) {
  std::string out;
  while (true) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    if (!line.empty()) out.append(indent).append("// ").append(line);
    if (end == std::string_view::npos) return out;
    out += '\n';
    text.remove_prefix(end + 1);
  }
}

std::span<const std::string_view> constraint_names(const Json& schema) {
  static constexpr std::array<std::string_view, 3> kString{"maxLength", "minLength", "pattern"};
  static constexpr std::array<std::string_view, 2> kNumber{"maximum", "minimum"};
  static constexpr std::array<std::string_view, 2> kArray{"maxItems", "minItems"};
  if (schema.contains("$ref") || schema.contains("anyOf") || schema.contains("enum")) return {};
  const std::string type = string_member(schema, "type");
  if (type == "string") return kString;
  if (type == "number" || type == "integer") return kNumber;
  if (type == "array") return kArray;
  return {};
}

// Description and constraints, each line ended.
std::string doc_lines(const Json& schema, std::string_view indent) {
  if (!schema.is_object()) return {};
  std::string out;
  const std::string description = string_member(schema, "description");
  if (!description.empty()) out += comment(description, indent) + "\n";
  std::vector<std::string> constraints;
  for (const std::string_view name : constraint_names(schema)) {
    if (const Json* value = member(schema, name)) {
      constraints.push_back(std::string(name) + ": " + python_text(*value));
    }
  }
  if (!constraints.empty()) {
    out.append(indent).append("// ").append(joined(constraints, ", ")).append("\n");
  }
  return out;
}

std::string type_text(const Json& schema, const std::string& indent, References& references);

std::string member_text(const std::string& name, const Json& schema, bool optional,
                        const std::string& indent, References& references) {
  std::string out = doc_lines(schema, indent);
  if (const Json* value = schema.is_object() ? member(schema, "default") : nullptr;
      value != nullptr && !value->is_null()) {
    out += indent +
           "// Default: " + (value->is_string() ? python_json(*value) : python_text(*value)) + "\n";
  }
  return out + indent + name + (optional ? "?: " : ": ") + type_text(schema, indent, references);
}

bool is_required(const Json& schema, const std::string& name) {
  const Json* required = member(schema, "required");
  return required != nullptr && required->is_array() &&
         std::find(required->begin(), required->end(), name) != required->end();
}

void note_definitions(const Json& schema, References& references) {
  const Json* definitions = member(schema, "$defs");
  if (definitions == nullptr || !definitions->is_object()) return;
  for (const auto& [name, definition] : definitions->items()) {
    references.definitions.emplace_back(name, &definition);
  }
}

// `{` members `}`: the required ones first, both groups by name.
std::string object_text(const Json& schema, const std::string& indent, References& references) {
  note_definitions(schema, references);
  const std::string inner = indent + std::string(kIndent);
  std::vector<std::pair<std::pair<bool, std::string>, const Json*>> sorted;
  if (const Json* properties = member(schema, "properties");
      properties != nullptr && properties->is_object()) {
    for (const auto& [name, property] : properties->items()) {
      sorted.push_back({{!is_required(schema, name), name}, &property});
    }
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> members;
  for (const auto& [key, property] : sorted) {
    members.push_back(member_text(key.second, *property, key.first, inner, references));
  }
  if (const Json* rest = member(schema, "additionalProperties");
      rest != nullptr && !rest->is_null()) {
    const bool never = rest->is_boolean() && !rest->get<bool>();
    members.push_back(inner +
                      "[k: string]: " + (never ? "never" : type_text(*rest, inner, references)));
  }
  if (members.empty()) return "{}";
  return "{\n" + joined(members, ",\n") + "\n" + indent + "}";
}

std::string array_text(const Json& schema, const std::string& indent, References& references) {
  const Json* items = member(schema, "items");
  if (items == nullptr || items->empty()) return "Array<any>";
  const std::string inner = indent + std::string(kIndent);
  const std::string docs = doc_lines(*items, inner);
  if (docs.empty()) return "Array<" + type_text(*items, indent, references) + ">";
  return "Array<\n" + docs + inner + type_text(*items, inner, references) + "\n" + indent + ">";
}

std::string reference_text(const std::string& target, References& references) {
  if (target == "#") {
    references.to_root = true;
    return "parameters";
  }
  return target.starts_with(kDefinitions) ? target.substr(target.rfind('/') + 1) : "any";
}

std::string named_type(const std::string& name) {
  if (name == "integer") return "number";
  if (name == "object") return "{}";
  if (name == "array") return "Array<any>";
  return name.empty() ? "any" : name;
}

std::string union_text(const Json& types) {
  std::vector<std::string> parts;
  for (const Json& type : types) {
    parts.push_back(type.is_string() ? named_type(type.get<std::string>()) : "any");
  }
  return joined(parts, " | ");
}

std::string type_text(const Json& schema, const std::string& indent, References& references) {
  if (schema.is_boolean()) return schema.get<bool>() ? "any" : "null";
  if (!schema.is_object()) return "any";
  if (schema.contains("$ref")) return reference_text(string_member(schema, "$ref"), references);
  std::vector<std::string> parts;
  if (const Json* any_of = member(schema, "anyOf"); any_of != nullptr && any_of->is_array()) {
    for (const Json& type : *any_of) parts.push_back(type_text(type, indent, references));
    return joined(parts, " | ");
  }
  if (const Json* values = member(schema, "enum"); values != nullptr && values->is_array()) {
    for (const Json& value : *values) {
      parts.push_back(value.is_string() ? '"' + value.get<std::string>() + '"'
                                        : python_text(value));
    }
    return joined(parts, " | ");
  }
  const Json* type = member(schema, "type");
  if (type != nullptr && type->is_array()) return union_text(*type);
  const std::string name = string_member(schema, "type");
  if (name == "object") return object_text(schema, indent, references);
  if (name == "array") return array_text(schema, indent, references);
  return named_type(name);
}

// The root as an interface of its own, for schemas that refer to themselves. Its members keep
// their order: so it was in training.
std::string root_interface(const Json& parameters, References& references) {
  std::vector<std::string> members;
  if (const Json* properties = member(parameters, "properties");
      properties != nullptr && properties->is_object()) {
    for (const auto& [name, property] : properties->items()) {
      members.push_back(member_text(name, property, !is_required(parameters, name),
                                    std::string(kIndent), references));
    }
  }
  if (members.empty()) return "interface parameters {}";
  return "interface parameters {\n" + joined(members, ",\n") + "\n}";
}

std::string function_text(const Json& function) {
  const Json* declared = member(function, "parameters");
  const Json parameters = declared != nullptr && declared->is_object() ? *declared : Json::object();
  References references;
  std::string root = object_text(parameters, "", references);
  std::vector<std::string> parts;
  References ignored;  // the same references again, and those between definitions
  if (references.to_root) {
    parts.push_back(root_interface(parameters, ignored));
    root = "parameters";
  }
  for (const auto& [name, definition] : references.definitions) {
    const std::string description = string_member(*definition, "description");
    parts.push_back((description.empty() ? "" : comment(description, "") + "\n") + "interface " +
                    name + " " + type_text(*definition, "", ignored));
  }
  const std::string description = string_member(function, "description");
  if (!description.empty()) parts.push_back(comment(description, ""));
  const std::string name = string_member(function, "name");
  parts.push_back("type " + (name.empty() ? "function" : name) + " = (_: " + root + ") => any;");
  return joined(parts, "\n");
}

}  // namespace

std::string typescript_tools(const Json& tools) {
  std::vector<std::string> functions;
  for (const Json& tool : tools) {
    const Json* function = member(tool, "function");
    if (string_member(tool, "type") != "function" || function == nullptr || function->empty()) {
      continue;
    }
    functions.push_back(function_text(*function));
  }
  if (functions.empty()) return {};
  return "# Tools\n\n## functions\nnamespace functions {\n" + joined(functions, "\n") + "\n}\n";
}

}  // namespace conclave::text
