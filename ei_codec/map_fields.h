// Reading the maps of which answers (api.md) are made: by key, where absent and `unknown` are the same. Pure; views live as
// long as what they look into.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ei_codec/term_view.h"

namespace scope::codec {

std::optional<TermView> get(const TermView& map, std::string_view key);
std::optional<std::int64_t> get_integer(const TermView& map,
                                        std::string_view key);  // floats: rounded
std::vector<TermView> get_list(const TermView& map, std::string_view key);
bool get_flag(const TermView& map, std::string_view key);

// Ids and cursors as text: without padding, and nothing in it needs quoting in a shell.
std::string base64url(Bytes bytes);
inline constexpr std::string_view kBase64UrlDigits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

}  // namespace scope::codec
