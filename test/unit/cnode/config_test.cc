#include "cnode/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

namespace scope::node {
namespace {

TEST(Config, EveryKeyIsUniqueHasHelpAndPrintsWhatItReads) {
  std::set<std::string_view> keys;
  for (const auto& o : options()) {
    EXPECT_TRUE(keys.insert(o.key).second) << o.key;
    EXPECT_FALSE(o.help.empty()) << o.key;
    Config c;
    auto before = get_option(c, o);
    if (std::holds_alternative<std::uint64_t Config::*>(o.field)) {
      ASSERT_TRUE(set_option(c, o.key, before)) << o.key << " does not take its own default";
      EXPECT_EQ(get_option(c, o), before);
    }
  }
}

TEST(Config, SecretsAreNeverPrinted) {
  Config c;
  ASSERT_TRUE(set_option(c, "cookie", "monster"));
  EXPECT_EQ(get_option(c, *find_option("cookie")), "***");
}

TEST(Config, QuantitiesHaveUnits) {
  EXPECT_EQ(*parse_quantity("16M", Option::Unit::bytes), 16u << 20);
  EXPECT_EQ(*parse_quantity("1.5K", Option::Unit::bytes), 1536u);
  EXPECT_EQ(*parse_quantity("2s", Option::Unit::milliseconds), 2000u);
  EXPECT_EQ(*parse_quantity("250", Option::Unit::milliseconds), 250u);
  for (const char* bad : {"", "x", "-1", "1Q", "1e99", "nan", "inf", "16M "}) {
    EXPECT_FALSE(parse_quantity(bad, Option::Unit::bytes)) << bad;
  }
}

TEST(Config, WrongKeysAndValuesSayWhatAndWhere) {
  Config c;
  auto unknown = set_option(c, "hold_byte", "1M");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, Code::unknown_key);
  EXPECT_NE(unknown.error().message.find("hold_bytes"), std::string::npos);
  auto range = set_option(c, "port", "70000");
  ASSERT_FALSE(range);
  EXPECT_EQ(range.error().code, Code::bad_value);
  EXPECT_EQ(range.error().field, "port");
  EXPECT_EQ(range.error().got, "70000");
  EXPECT_FALSE(set_option(c, "log_level", "loud"));
}

TEST(Config, ReadsATomlFile) {
  auto path = std::filesystem::temp_directory_path() /
              ("scope_config_" + std::to_string(getpid()) + ".toml");
  std::ofstream(path) << "name = \"s@h\"\nnode = [\"a@h\", \"b@h\"]\nhold_bytes = \"2M\"\nping_ms "
                         "= 100\nlongnames = true\n";
  Config c;
  auto loaded = load_config_file(c, path);
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  EXPECT_EQ(c.name, "s@h");
  EXPECT_EQ(c.nodes, (std::vector<std::string>{"a@h", "b@h"}));
  EXPECT_EQ(c.hold_bytes, 2u << 20);
  EXPECT_EQ(c.ping_ms, 100u);
  EXPECT_TRUE(c.longnames);
  std::ofstream(path) << "nmae = 1\n";
  auto wrong = load_config_file(c, path);
  ASSERT_FALSE(wrong);
  EXPECT_NE(wrong.error().message.find("name"), std::string::npos);
  std::ofstream(path) << "name = [\n";
  EXPECT_FALSE(load_config_file(c, path));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace scope::node
