#include "store/names.h"

#define XXH_INLINE_ALL  // names are short: a call costs as much as their hash
#include <xxhash.h>

#include <algorithm>

#include "store/key_format.h"

namespace scope::store {
namespace {

std::uint64_t hash(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

Result<codec::Mfa> read_mfa(Bytes value) {
  ByteReader in(value);
  codec::Mfa mfa;
  mfa.arity = in.u8();
  mfa.module = in.text();
  mfa.function = in.text();
  if (!in.done()) return fail(Code::corrupt, "a function's name is damaged");
  return mfa;
}

}  // namespace

std::size_t NameTable::TextHash::operator()(std::string_view text) const { return hash(text); }
std::size_t NameTable::MfaHash::operator()(const codec::Mfa& m) const {
  return hash(m.function) ^ (hash(m.module) * 0x9E3779B97F4A7C15ULL + m.arity);
}

NameId NameTable::add_atom(std::string_view text) {
  const auto kept = arena_.copy(text);
  atom_list_.push_back(kept);
  bytes_ += kept.size() + 96;
  const auto id = static_cast<NameId>(atom_list_.size());
  atoms_.emplace(kept, id);
  return id;
}

NameId NameTable::add_mfa(const codec::Mfa& mfa) {
  const codec::Mfa kept{arena_.copy(mfa.module), arena_.copy(mfa.function), mfa.arity};
  mfa_list_.push_back(kept);
  bytes_ += kept.module.size() + kept.function.size() + 192;
  const auto id = static_cast<NameId>(mfa_list_.size());
  mfas_.emplace(kept, id);
  return id;
}

NameId NameTable::find(std::string_view text) const {
  const auto it = atoms_.find(text);
  return it != atoms_.end() ? it->second : 0;
}

NameId NameTable::find(const codec::Mfa& mfa) const {
  const auto it = mfas_.find(mfa);
  return it != mfas_.end() ? it->second : 0;
}

NameId NameTable::atom(std::string_view text) {
  if (text.empty()) return 0;
  const auto known = find(text);
  return known != 0 ? known : add_atom(text);
}

NameId NameTable::mfa(const codec::Mfa& mfa) {
  if (!mfa) return 0;
  const auto known = find(mfa);
  return known != 0 ? known : add_mfa(mfa);
}

Result<std::string_view> NameTable::atom(NameId id) {
  if (id == 0) return std::string_view{};
  if (id > atom_list_.size()) return fail(Code::corrupt, "a name that the partition does not hold");
  return atom_list_[id - 1];
}

Result<codec::Mfa> NameTable::mfa(NameId id) {
  if (id == 0) return codec::Mfa{};
  if (id > mfa_list_.size())
    return fail(Code::corrupt, "a function that the partition does not hold");
  return mfa_list_[id - 1];
}

Status NameTable::load(const lmdb::Txn& txn, lmdb::Dbi dbi) {
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, dbi));
  for (const char kind : {'a', 'f'}) {
    const Key prefix(kind);
    ASSIGN_OR_RETURN(bool found, cursor.seek(prefix));
    while (found && starts_with(cursor.key(), prefix)) {
      const NameId id = KeyReader(cursor.key().subspan(1)).u32();
      NameId given = 0;
      if (kind == 'a') {
        given = add_atom(as_text(cursor.value()));
      } else {
        ASSIGN_OR_RETURN(const auto mfa, read_mfa(cursor.value()));
        given = add_mfa(mfa);
      }
      if (given != id) return fail(Code::corrupt, "the table of names has a hole");
      ASSIGN_OR_RETURN(found, cursor.next());
    }
  }
  mark_stored();
  return {};
}

Status NameTable::write_new(lmdb::Txn& txn, lmdb::Dbi dbi) const {
  for (auto i = stored_atoms_; i < atom_list_.size(); ++i) {
    const auto id = static_cast<NameId>(i + 1);
    RETURN_IF_ERROR(txn.put(dbi, atom_key(id), as_bytes(atom_list_[i])));
    RETURN_IF_ERROR(txn.put(dbi, atom_hash_key(hash(atom_list_[i]), id), {}));
  }
  ByteWriter out;
  for (auto i = stored_mfas_; i < mfa_list_.size(); ++i) {
    out.clear();
    out.u8(mfa_list_[i].arity);
    out.text(mfa_list_[i].module);
    out.text(mfa_list_[i].function);
    RETURN_IF_ERROR(txn.put(dbi, mfa_key(static_cast<NameId>(i + 1)), out.bytes()));
  }
  return {};
}

void NameTable::mark_stored() {
  stored_atoms_ = atom_list_.size();
  stored_mfas_ = mfa_list_.size();
}

Result<std::string_view> NameReader::atom(NameId id) {
  if (id == 0) return std::string_view{};
  if (const auto it = atoms_.find(id); it != atoms_.end()) return it->second;
  ASSIGN_OR_RETURN(const auto value, txn_.get(dbi_, atom_key(id)));
  if (!value) return fail(Code::corrupt, "a name that the partition does not hold");
  const auto text = arena_.copy(as_text(*value));
  atoms_.emplace(id, text);
  return text;
}

Result<codec::Mfa> NameReader::mfa(NameId id) {
  if (id == 0) return codec::Mfa{};
  if (const auto it = mfas_.find(id); it != mfas_.end()) return it->second;
  ASSIGN_OR_RETURN(const auto value, txn_.get(dbi_, mfa_key(id)));
  if (!value) return fail(Code::corrupt, "a function that the partition does not hold");
  ASSIGN_OR_RETURN(auto mfa, read_mfa(*value));
  mfa.module = arena_.copy(mfa.module);
  mfa.function = arena_.copy(mfa.function);
  mfas_.emplace(id, mfa);
  return mfa;
}

Result<std::vector<NameId>> NameReader::find_mfas(std::span<const MfaPattern> patterns) const {
  std::vector<NameId> out;
  const Key prefix('f');
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn_, dbi_));
  ASSIGN_OR_RETURN(bool found, cursor.seek(prefix));
  while (found && starts_with(cursor.key(), prefix)) {
    ASSIGN_OR_RETURN(const auto mfa, read_mfa(cursor.value()));
    if (std::ranges::any_of(patterns, [&](const auto& p) { return p.matches(mfa); }))
      out.push_back(KeyReader(cursor.key().subspan(1)).u32());
    ASSIGN_OR_RETURN(found, cursor.next());
  }
  return out;
}

Result<NameId> NameReader::find(std::string_view text) const {
  if (text.empty()) return NameId{0};
  const auto prefix = atom_hash_prefix(hash(text));
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn_, dbi_));
  ASSIGN_OR_RETURN(bool found, cursor.seek(prefix));
  while (found && starts_with(cursor.key(), prefix)) {
    const NameId id = KeyReader(cursor.key().subspan(9)).u32();
    ASSIGN_OR_RETURN(const auto value, txn_.get(dbi_, atom_key(id)));
    if (value && as_text(*value) == text) return id;
    ASSIGN_OR_RETURN(found, cursor.next());
  }
  return NameId{0};
}

}  // namespace scope::store
