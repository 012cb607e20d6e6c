// print(): a term as text for people (Erlang's and Elixir's syntax) and for programs (JSON).
//
// Cap       The text never has more than max_bytes bytes (values below kMinPrint count as that). What is left out is
//           marked "..." at every level that was cut, and JSON stays valid: as a string "..." in an array, a member
//           "...": "..." in an object, and inside a string at its end.
// Cost      About linear in max_bytes times the depth printed, however large the term. Depth: at most kMaxDepth.
// Text      UTF-8. Binaries that are printable UTF-8 and lists of printable ASCII are shown as text, as Elixir does it
//           (with more than ASCII, [1000, 2000] would be text). Only what is visible is examined for that.
// Threads   Any.
//
//             Erlang                      Elixir                          JSON
// atom        ok  'A b'                   :ok  :"A b"  nil  Foo.Bar       "ok"; true, false; nil and null are null
// integer     1                           1                               1; beyond 64 bits a string of digits
// float       1.0                         1.0                             1.0
// binary      <<"a">> <<"ж"/utf8>> <<1>>  "a"  "ж"  <<1>>                 "a"; else {"$binary": base64}
// bitstring   <<1,2:3>>                   <<1, 2::size(3)>>               {"$bits": n, "$binary": base64}
// charlist    "a"                         ~c"a"                           "a"
// list        [1,2|x]                     [1, 2 | :x]  [a: 1]             [1,2]; {"$list": [1,2], "$tail": "x"}
// tuple       {ok,1}                      {:ok, 1}                        ["ok",1]
// map         #{a => 1}                   %{a: 1}  %{"k" => 1}  %Mod{}    {"a":1} if all keys are atoms or all are
//                                                                         text; else {"$map": [[k,v], ...]}
// pid         <shop@host.12.0>            #PID<shop@host.12.0>            "#PID<shop@host.12.0>"
// reference   #Ref<shop@host.3.2.1>       #Reference<shop@host.3.2.1>     "#Ref<shop@host.3.2.1>"
// port        #Port<shop@host.5>          the same                        "#Port<shop@host.5>"
// fun         #Fun<mod.0.123>             #Function<0.123/1 in Mod>       "#Fun<mod.0.123>"
// redacted    {'$scope_redacted',17}      #Redacted<0000000000000011>     {"$redacted":"0000000000000011"}   (erl/c_src/redact.h)
// export      fun lists:map/2             &:lists.map/2                   "fun lists:map/2"
//
// Pids carry their node, because a reader sits on no node; creations are not shown. Integers of over 1,024 bytes are in
// hexadecimal (16#.., 0x..), as decimal digits cost quadratic time.
#pragma once

#include <string>

#include "ei_codec/term_view.h"

namespace scope::codec {

enum class Syntax : std::uint8_t { erlang, elixir, json };

inline constexpr std::size_t kMinPrint = 16;

std::string print(const TermView& term, Syntax syntax, std::size_t max_bytes = 64u << 10);

}  // namespace scope::codec
