# Writes OUT: a table of the agent's beams (name, bytes), and the native tracer, as cnode/agents/agent_beams.h declares
# them.
set(arrays "")
set(table "")
foreach(beam ${BEAMS})
  get_filename_component(module ${beam} NAME_WE)
  file(READ ${beam} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(APPEND arrays "const unsigned char ${module}_bytes[] = {${bytes}};\n")
  string(APPEND table "    {\"${module}\", std::as_bytes(std::span(${module}_bytes))},\n")
endforeach()
file(READ ${LIBRARY} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," library "${hex}")
file(WRITE ${OUT} "// Made by erl/embed_beams.cmake.
#include \"cnode/agents/agent_beams.h\"

namespace scope::node {
namespace {
${arrays}
const AgentBeam kBeams[] = {
${table}};
const unsigned char kLibrary[] = {${library}};
}  // namespace

std::span<const AgentBeam> agent_beams() { return kBeams; }
std::span<const std::byte> agent_library() { return std::as_bytes(std::span(kLibrary)); }
}  // namespace scope::node
")
