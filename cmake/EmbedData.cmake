# embed_catalogues(TARGET)
#
# Builds data/*.toml into TARGET as plan::built_in_sources(). The generated file lives in the build
# tree and is made again whenever a catalogue changes: data/ is the only copy.
#
# The file is its own generator: cmake -DFOLDER=data -DOUTPUT=out.cc -P EmbedData.cmake
if(NOT CMAKE_SCRIPT_MODE_FILE)
  set(EMBED_DATA_SCRIPT ${CMAKE_CURRENT_LIST_FILE})
  function(embed_catalogues TARGET)
    set(FOLDER ${CMAKE_SOURCE_DIR}/data)
    set(OUTPUT ${CMAKE_BINARY_DIR}/generated/plan/built_in_sources.cc)
    file(GLOB FILES CONFIGURE_DEPENDS ${FOLDER}/*.toml)
    add_custom_command(
      OUTPUT ${OUTPUT}
      COMMAND ${CMAKE_COMMAND} -DFOLDER=${FOLDER} -DOUTPUT=${OUTPUT} -P ${EMBED_DATA_SCRIPT}
      DEPENDS ${FILES} ${EMBED_DATA_SCRIPT}
      COMMENT "Embedding data/*.toml"
      VERBATIM)
    target_sources(${TARGET} PRIVATE ${OUTPUT})
  endfunction()
  return()
endif()

file(GLOB FILES ${FOLDER}/*.toml)
list(SORT FILES)
list(LENGTH FILES COUNT)
if(COUNT EQUAL 0)
  message(FATAL_ERROR "no *.toml in ${FOLDER}")
endif()
set(ENTRIES "")
foreach(FILE IN LISTS FILES)
  get_filename_component(NAME ${FILE} NAME)
  file(READ ${FILE} TEXT)
  # Ends of the raw strings below.
  string(FIND "${TEXT}" ")toml\"" FOUND)
  if(NOT FOUND EQUAL -1)
    message(FATAL_ERROR "${FILE}: contains )toml\", which ends the string that holds it")
  endif()
  string(APPEND ENTRIES "      {\"${NAME}\", R\"toml(${TEXT})toml\"},\n")
endforeach()
file(WRITE ${OUTPUT} "// Made by cmake/EmbedData.cmake from data/*.toml.
#include <array>

#include \"plan/catalogue.h\"

namespace conclave::plan {

std::span<const CatalogueSource> built_in_sources() {
  static const std::array<CatalogueSource, ${COUNT}> sources{{
${ENTRIES}  }};
  return sources;
}

}  // namespace conclave::plan
")
