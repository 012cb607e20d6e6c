# The suites of the folder that includes this: every *_SUITE.erl is one test, PREFIX.NAME, run by test/support/run_suite
# against real BEAM nodes. ENVIRONMENT, LABELS and TIMEOUT are the tests'; what EXTRA names is compiled too.
#   scope_suites(PREFIX TARGET EXTRA LABELS TIMEOUT ENVIRONMENT)
function(scope_suites prefix target extra labels timeout environment)
  set(ebin ${CMAKE_BINARY_DIR}/test/ebin)
  file(MAKE_DIRECTORY ${ebin})
  set(beams "")
  file(GLOB sources CONFIGURE_DEPENDS *.erl ${extra})
  foreach(source ${sources})
    get_filename_component(module ${source} NAME_WE)
    add_custom_command(OUTPUT ${ebin}/${module}.beam DEPENDS ${source} VERBATIM
                       COMMAND ${ERLC} +debug_info -Werror -o ${ebin} ${source})
    list(APPEND beams ${ebin}/${module}.beam)
  endforeach()
  add_custom_target(${target} ALL DEPENDS ${beams})
  file(GLOB suites CONFIGURE_DEPENDS *_SUITE.erl)
  list(FILTER suites EXCLUDE REGEX "/releases_SUITE")    # needs another release: the includer adds its tests
  foreach(source ${suites})
    get_filename_component(suite ${source} NAME_WE)
    set(command ${CMAKE_SOURCE_DIR}/test/support/run_suite ${suite})
    add_test(NAME ${prefix}.${suite} COMMAND ${command})
    set_tests_properties(${prefix}.${suite} PROPERTIES LABELS "${labels}" TIMEOUT ${timeout} SKIP_RETURN_CODE 77
                         ENVIRONMENT "SCOPE_BUILD=${CMAKE_BINARY_DIR};${environment}")
  endforeach()
endfunction()
