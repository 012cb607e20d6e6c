// Atoms and MFAs as small numbers of one partition (`names`), so that retention drops them with it.
//
// NameTable   the writer's side: text -> number, in memory. New numbers are kept until a transaction that holds
//             them has committed, so a commit that fails loses nothing: write_new(), then mark_stored().
// NameReader  a reader's side, within one read transaction: number -> text, copied into an arena that outlives it.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <deque>
#include <string>
#include <vector>

#include "ei_codec/trace_event.h"
#include "store/lmdb.h"
#include "store/view.h"

namespace scope::store {

using NameId = std::uint32_t;  // 0: none

// Texts that rows point to. Addresses are permanent.
class Arena {
 public:
  std::string_view copy(std::string_view text) { return texts_.emplace_back(text); }

 private:
  std::deque<std::string> texts_;
};

// Number -> text.
class NameSource {
 public:
  virtual ~NameSource() = default;
  virtual Result<std::string_view> atom(NameId id) = 0;  // 0: empty
  virtual Result<codec::Mfa> mfa(NameId id) = 0;         // 0: none
};

class NameTable final : public NameSource {
 public:
  Status load(const lmdb::Txn& txn, lmdb::Dbi dbi);

  NameId atom(std::string_view text);  // empty: 0
  NameId mfa(const codec::Mfa& mfa);   // none: 0
  // 0: it has none, too. These, and by number, any threads while nobody adds any.
  NameId find(std::string_view text) const;
  NameId find(const codec::Mfa& mfa) const;
  Result<std::string_view> atom(NameId id) override;
  Result<codec::Mfa> mfa(NameId id) override;
  Status write_new(lmdb::Txn& txn, lmdb::Dbi dbi) const;
  void mark_stored();
  // What it takes in memory: the partition is rolled beyond a bound, so that no peer can grow it for ever.
  std::size_t bytes() const { return bytes_; }

 private:
  struct MfaHash {
    std::size_t operator()(const codec::Mfa& m) const;
  };
  struct TextHash {
    std::size_t operator()(std::string_view text) const;
  };
  NameId add_atom(std::string_view text);
  NameId add_mfa(const codec::Mfa& mfa);

  Arena arena_;
  boost::unordered_flat_map<std::string_view, NameId, TextHash> atoms_;
  boost::unordered_flat_map<codec::Mfa, NameId, MfaHash> mfas_;
  std::vector<std::string_view> atom_list_;  // by number - 1
  std::vector<codec::Mfa> mfa_list_;
  std::size_t stored_atoms_ = 0, stored_mfas_ = 0;
  std::size_t bytes_ = 0;
};

class NameReader final : public NameSource {
 public:
  // All three outlive it.
  NameReader(const lmdb::Txn& txn, lmdb::Dbi dbi, Arena& arena)
      : txn_(txn), dbi_(dbi), arena_(arena) {}

  Result<std::string_view> atom(NameId id) override;
  Result<codec::Mfa> mfa(NameId id) override;
  // 0: this partition never saw it.
  Result<NameId> find(std::string_view text) const;
  // All functions that match one of the patterns, ascending. Looks at each that the partition holds.
  Result<std::vector<NameId>> find_mfas(std::span<const MfaPattern> patterns) const;

 private:
  const lmdb::Txn& txn_;
  lmdb::Dbi dbi_;
  Arena& arena_;
  boost::unordered_flat_map<NameId, std::string_view> atoms_;
  boost::unordered_flat_map<NameId, codec::Mfa> mfas_;
};

}  // namespace scope::store
