"""What tidy.py needs to know of source text: files, code without comments, where functions lie."""

import ast
import re
import subprocess
from typing import NamedTuple

# What to blank before looking at code. Digit separators (1'000) are no character literals.
_CPP = re.compile(
    r'R"(?P<raw>[^\s()\\]{0,16})\((?:.|\n)*?\)(?P=raw)"'
    r"|//[^\n]*|/\*(?:.|\n)*?\*/"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|(?<!\w)'(?:\\.|[^'\\\n])+'"
)
_CPP_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
_RUST = re.compile(
    r'r(?P<raw>#*)"(?:.|\n)*?"(?P=raw)'
    r"|//[^\n]*|/\*(?:.|\n)*?\*/"
    r'|"(?:\\(?:.|\n)|[^"\\])*"'
    r"|'(?:\\[^\n]+?|[^\\'\n])'"
)
_ACCESS = re.compile(r"\s*(?:(?:public|private|protected)\s*:\s*)*")
_CPP_SCOPE = re.compile(
    r"(?:export\s+|inline\s+|typedef\s+)*(?:namespace|class|struct|union|enum)\b|extern\s*$"
)
_RUST_SCOPE = re.compile(r"\b(?:impl|mod|trait|extern)\b")


class Function(NamedTuple):
    first_line: int
    last_line: int
    name: str

    @property
    def lines(self):
        return self.last_line - self.first_line + 1


def repository_files(root):
    """Tracked files and new ones that git does not ignore, as paths relative to `root`."""
    command = ["git", "-C", str(root), "ls-files", "-z", "-co", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, check=False)
    if listing.returncode == 0:
        names = listing.stdout.decode().split("\0")
    else:  # a copy without git: everything but what a build makes
        paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        names = [str(path) for path in paths if path.parts[0] not in ("build", ".git")]
    return sorted({name for name in names if name and (root / name).is_file()})


def _spaces(match):
    return re.sub(r"[^\n]", " ", match[0])


def code_only(text, suffix):
    """`text` with comments, literals and (C++) preprocessor lines blanked; offsets stay."""
    if suffix == ".rs":
        return _RUST.sub(_spaces, text)
    return _CPP_DIRECTIVE.sub(_spaces, _CPP.sub(_spaces, text))


def _without_template(head):
    """`head` without leading `template <...>`."""
    while match := re.match(r"\s*template\s*<", head):
        depth, at = 1, match.end()
        while depth and at < len(head):
            depth += {"<": 1, ">": -1}.get(head[at], 0)
            at += 1
        head = head[at:]
    return head.strip()


def _is_cpp_function(head):
    if re.search(r"\boperator\b", head):
        return True
    depth = 0
    for char in head:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(char, 0)
        if char == "=" and depth == 0:
            return False  # a variable and its initialiser
    return "(" in head


def _kind(head, suffix):
    if suffix == ".rs":
        if re.search(r"\bfn\b", head):
            return "function"
        return "scope" if _RUST_SCOPE.search(head) else "block"
    head = _without_template(head)
    if head.count("(") > head.count(")"):
        return "block"  # a default argument
    if not head or _CPP_SCOPE.match(head):
        return "scope"
    return "function" if _is_cpp_function(head) else "block"


def _function(code, start, end):
    start += _ACCESS.match(code[start:end]).end()
    name = re.search(r"([\w:~]+)\s*(?:<[^(]*>)?\s*\(", code[start:end])
    first, last = code.count("\n", 0, start) + 1, code.count("\n", 0, end) + 1
    return Function(first, last, name[1] if name else "?")


def brace_functions(code, suffix):
    """Functions in C++ or Rust that `code_only` has blanked; lambdas count for their parent."""
    found, stack, head_start = [], [], 0
    for at in (match.start() for match in re.finditer(r"[{};]", code)):
        char = code[at]
        at_scope = all(kind == "scope" for kind in stack)
        if char == "{":
            stack.append(_kind(_head(code, head_start, at), suffix) if at_scope else "block")
            if stack[-1] == "scope":
                head_start = at + 1
        elif char == ";":
            head_start = at + 1 if at_scope else head_start
        elif stack:
            closed = stack.pop()
            if not all(kind == "scope" for kind in stack):
                continue
            following = code[at + 1 :].lstrip()[:1]
            if closed == "function" and following not in (",", "{"):  # else: `: a_{1}, b_{2} {`
                found.append(_function(code, head_start, at))
            if closed == "scope" or (closed == "function" and following not in (",", "{")):
                head_start = at + 1
            elif closed == "block" and suffix == ".rs":
                head_start = at + 1
    return found


def _head(code, start, end):
    head = code[start:end]
    return head[_ACCESS.match(head).end() :].strip()


def python_functions(text):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds))
    return [Function(node.lineno, node.end_lineno, node.name) for node in nodes]
