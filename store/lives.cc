#include "store/lives.h"

#include <algorithm>
#include <map>

#include "store/key_format.h"

namespace scope::store {
namespace {

using codec::EventType;
using codec::Peer;
using codec::TraceRecord;

constexpr unsigned kVersion = 1;
enum LifeFlag : unsigned { kSpawned = 1, kExited = 2, kAlive = 4, kParent = 8 };
enum SpellFlag : unsigned { kUntil = 1, kBaseline = 2 };
constexpr int kRecentSpells = 8;  // of one name, looked at for one that is still open
constexpr int kMostPassed = 64;   // of it and of other agents of its VM

void encode_life(const Life& life, NameTable& names, ByteWriter& out) {
  out.clear();
  out.u8(kVersion);
  out.u8((life.spawned ? kSpawned : 0U) | (life.exited ? kExited : 0U) |
         (life.seen_alive ? kAlive : 0U) | (life.parent ? kParent : 0U));
  if (life.spawned) out.i64(life.spawned->ns);
  if (life.exited) out.i64(life.exited->ns);
  if (life.seen_alive) out.i64(life.seen_alive->ns);
  out.varint(names.mfa(life.initial_call));
  if (life.parent) {
    out.varint(names.atom(life.parent->node));
    out.varint(life.parent->creation);
    out.varint(life.parent->id);
    out.varint(life.parent->serial);
  }
}

Result<Life> decode_life(Bytes value, const ProcessId& process, NameSource& names) {
  ByteReader in(value);
  Life life;
  life.process = process;
  const auto version = in.u8();
  const unsigned flags = in.u8();
  if (flags & kSpawned) life.spawned = RawTime{in.i64()};
  if (flags & kExited) life.exited = RawTime{in.i64()};
  if (flags & kAlive) life.seen_alive = RawTime{in.i64()};
  ASSIGN_OR_RETURN(life.initial_call, names.mfa(static_cast<NameId>(in.varint())));
  if (flags & kParent) {
    Peer parent;
    parent.kind = Peer::Kind::pid;
    ASSIGN_OR_RETURN(parent.node, names.atom(static_cast<NameId>(in.varint())));
    parent.creation = static_cast<std::uint32_t>(in.varint());
    parent.id = static_cast<std::uint32_t>(in.varint());
    parent.serial = static_cast<std::uint32_t>(in.varint());
    life.parent = parent;
  }
  if (version != kVersion || !in.done()) return fail(Code::corrupt, "a process's life is damaged");
  return life;
}

Status put_spell(lmdb::Txn& txn, const Databases& db, Incarnation home, NameId atom,
                 const NameSpell& spell) {
  ByteWriter out;
  out.u8(kVersion);
  out.u8((spell.until ? kUntil : 0U) | (spell.from_baseline ? kBaseline : 0U));
  if (spell.until) out.i64(spell.until->ns);
  RETURN_IF_ERROR(
      txn.put(db.lives, owner_spell_key(home, spell.process, atom, spell.from), out.bytes()));
  return txn.put(db.lives, name_spell_key(home, spell.process, atom, spell.from), out.bytes());
}

Result<NameSpell> decode_spell(Bytes value) {
  ByteReader in(value);
  NameSpell spell;
  const auto version = in.u8();
  const unsigned flags = in.u8();
  if (flags & kUntil) spell.until = RawTime{in.i64()};
  spell.from_baseline = (flags & kBaseline) != 0;
  if (version != kVersion || !in.done()) return fail(Code::corrupt, "a name's spell is damaged");
  return spell;
}

// A spell from its row under the 'n' key.
Result<NameSpell> named_spell(const lmdb::Cursor& cursor, std::string_view name) {
  ASSIGN_OR_RETURN(auto spell, decode_spell(cursor.value()));
  KeyReader key(cursor.key().subspan(9));
  spell.from = {key.i64()};
  spell.process.incarnation = key.u32();
  spell.process.id = key.u32();
  spell.process.serial = key.u32();
  spell.name = name;
  if (!key.done()) return fail(Code::corrupt, "a name's key is damaged");
  return spell;
}

}  // namespace

ProcessId life_subject(const StoredRow& row) {
  const auto& r = row.record;
  if (r.type == EventType::process_spawn && !r.has(TraceRecord::kChildSide))
    return {row.process.incarnation, r.peer.id, r.peer.serial};
  return row.process;
}

std::string_view row_name(const TraceRecord& r) {
  if (r.payload.empty()) return {};
  const auto term = r.term();
  if (r.type == EventType::process_alive) {
    auto map = term.map();
    if (!map) return {};
    const auto name = map->find("name");
    return name ? name->atom().value_or(std::string_view{}) : std::string_view{};
  }
  if (r.type != EventType::process_register && r.type != EventType::process_unregister) return {};
  return term.atom().value_or(std::string_view{});
}

void by_time(std::vector<const StoredRow*>& rows) {
  struct Arrived {
    const StoredRow* row;
    std::size_t place;
  };
  std::vector<Arrived> arrived;
  arrived.reserve(rows.size());
  for (const auto* row : rows) arrived.push_back({row, arrived.size()});
  std::ranges::sort(arrived, {}, [](const Arrived& a) {
    return std::tuple(a.row->process.incarnation, a.row->record.time, a.place);
  });
  std::ranges::transform(arrived, rows.begin(), &Arrived::row);
}

void apply_to_life(Life& life, const StoredRow& row) {
  const auto& r = row.record;
  const auto earliest = [&](std::optional<RawTime>& t) { t = t ? std::min(*t, r.time) : r.time; };
  switch (r.type) {
    case EventType::process_spawn:
      earliest(life.spawned);
      if (!life.initial_call) life.initial_call = r.mfa;
      if (!life.parent) {
        life.parent = r.peer;
        if (!r.has(TraceRecord::kChildSide)) {  // the peer is the child itself, of the same node
          life.parent->id = row.process.id;
          life.parent->serial = row.process.serial;
        }
      }
      break;
    case EventType::process_exit:
      life.exited = life.exited ? std::max(*life.exited, r.time) : r.time;
      break;
    case EventType::process_alive:
      earliest(life.seen_alive);
      if (!life.initial_call) life.initial_call = r.mfa;
      if (!life.parent && r.peer.kind == Peer::Kind::pid) life.parent = r.peer;
      break;
    default:
      break;
  }
}

bool apply_to_spells(std::vector<NameSpell>& spells, const StoredRow& row) {
  const auto& r = row.record;
  const auto name = row_name(r);
  bool changed = false;
  const auto end = [&](NameSpell& s) {
    if (s.from > r.time || (s.until && *s.until <= r.time)) return;
    s.until = r.time;
    changed = true;
  };
  switch (r.type) {
    case EventType::process_exit:
      for (auto& s : spells) {
        if (s.process == row.process && !s.until) end(s);
      }
      break;
    case EventType::process_unregister:
      for (auto& s : spells) {
        if (s.process == row.process && s.name == name) end(s);
      }
      break;
    case EventType::process_register:
    case EventType::process_alive: {
      if (name.empty()) break;
      const bool baseline = r.type == EventType::process_alive;
      for (auto& s : spells) {
        if (s.name != name || s.process.incarnation != row.process.incarnation) continue;
        if (s.process == row.process &&
            (s.from == r.time || (baseline && s.from < r.time && !s.until)))
          return changed;  // known already
        if (!s.until) end(s);
      }
      spells.push_back({row.process, name, r.time, baseline, std::nullopt});
      changed = true;
      break;
    }
    default:
      break;
  }
  return changed;
}

namespace {

// Which keys are known to be absent: one look tells of all up to the next key that is there. Most processes that end never
// held a name, and most that begin are new. Lives as long as one transaction that writes these keys; told of each.
class Absence {
 public:
  // Is there a key that begins with `prefix`?
  Result<bool> has(const lmdb::Txn& txn, lmdb::Dbi dbi, const Key& prefix) {
    if (known_ && !less(prefix, from_) &&
        (!next_ || (less(prefix, *next_) && !starts_with(*next_, prefix))))
      return false;
    ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, dbi));
    ASSIGN_OR_RETURN(const bool found, cursor.seek(prefix));
    known_ = true;
    from_ = prefix;
    next_.reset();
    if (found) next_.emplace(cursor.key().begin(), cursor.key().end());
    return found && starts_with(*next_, prefix);
  }
  // What lies behind it up to the next one is still absent.
  void put(const Key& key) {
    if (known_ && !less(key, from_) && (!next_ || less(key, *next_))) from_ = Key(key).u8(0);
  }

 private:
  static bool less(Bytes a, Bytes b) { return as_text(a) < as_text(b); }

  bool known_ = false;
  Key from_;                                    // none from here on ...
  std::optional<std::vector<std::byte>> next_;  // ... up to this one; nullopt: to the end
};

class LifeWriter {
 public:
  LifeWriter(lmdb::Txn& txn, const Databases& db, const Incarnations& incarnations,
             NameTable& names)
      : txn_(txn), db_(db), incarnations_(incarnations), names_(names) {}

  Status store(std::span<const TailBatch* const> batches);

 private:
  struct Fact {
    ProcessId subject;
    const StoredRow* row;
    std::size_t place;  // in the order of arrival, which decides a tie, as by_time()
  };
  Incarnation home(const ProcessId& p) const { return incarnations_.info(p.incarnation).home; }
  Status store_life(std::span<const Fact> facts);
  Status store_name(const StoredRow& row);
  Status load_named(const StoredRow& row, NameId atom, std::string_view name,
                    std::vector<NameSpell>& spells);

  lmdb::Txn& txn_;
  const Databases& db_;
  const Incarnations& incarnations_;
  NameTable& names_;
  ByteWriter out_;
  Absence lives_, owners_;  // of the keys 'p' and 'o'
};

Status LifeWriter::store(std::span<const TailBatch* const> batches) {
  std::vector<Fact> facts;
  std::vector<const StoredRow*> about_names;
  for (const auto* batch : batches) {
    for (const auto i : batch->lifecycle) {
      const auto& row = batch->rows[i];
      facts.push_back({life_subject(row), &row, facts.size()});
      if (row.record.type != EventType::process_spawn) about_names.push_back(&row);
    }
  }
  std::ranges::sort(
      facts, {}, [](const Fact& f) { return std::tuple(f.subject, f.row->record.time, f.place); });
  for (std::size_t i = 0, j = 0; i < facts.size(); i = j) {
    while (j < facts.size() && facts[j].subject == facts[i].subject) ++j;
    RETURN_IF_ERROR(store_life(std::span(facts).subspan(i, j - i)));
  }
  by_time(about_names);
  for (const auto* row : about_names) RETURN_IF_ERROR(store_name(*row));
  return {};
}

Status LifeWriter::store_life(std::span<const Fact> facts) {
  Life life;
  life.process = facts.front().subject;
  const auto key = process_key('p', home(life.process), life.process);
  bool wanted = false;
  for (const auto& f : facts) {
    wanted |= f.row->record.type != EventType::process_register &&
              f.row->record.type != EventType::process_unregister;
  }
  if (!wanted) return {};
  ASSIGN_OR_RETURN(const bool known, lives_.has(txn_, db_.lives, key));
  if (known) {
    ASSIGN_OR_RETURN(const auto row, txn_.get(db_.lives, key));
    ASSIGN_OR_RETURN(life, decode_life(*row, life.process, names_));
  }
  for (const auto& f : facts) apply_to_life(life, *f.row);
  encode_life(life, names_, out_);
  lives_.put(key);
  return txn_.put(db_.lives, key, out_.bytes());
}

// Those that began last when the row was recorded. Others of its VM, by another agent, may lie between.
Status LifeWriter::load_named(const StoredRow& row, NameId atom, std::string_view name,
                              std::vector<NameSpell>& spells) {
  const auto prefix = name_spell_prefix(home(row.process), atom);
  const Key prefix_until = Key(prefix).i64(row.record.time.ns).u32(~0U);
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn_, db_.lives));
  ASSIGN_OR_RETURN(bool found, cursor.seek(prefix_until));
  if (found) {
    ASSIGN_OR_RETURN(found, cursor.previous());
  } else {
    ASSIGN_OR_RETURN(found, cursor.last());
  }
  for (int i = 0; i < kMostPassed && spells.size() < kRecentSpells && found &&
                  starts_with(cursor.key(), prefix);
       ++i) {
    ASSIGN_OR_RETURN(const auto spell, named_spell(cursor, name));
    if (spell.process.incarnation == row.process.incarnation) spells.push_back(spell);
    ASSIGN_OR_RETURN(found, cursor.previous());
  }
  return {};
}

Status LifeWriter::store_name(const StoredRow& row) {
  const auto h = home(row.process);
  std::vector<NameSpell> spells;
  if (row.record.type == EventType::process_exit) {
    ASSIGN_OR_RETURN(const bool held,
                     owners_.has(txn_, db_.lives, process_prefix('o', h, row.process)));
    if (!held) return {};
    ASSIGN_OR_RETURN(spells, read_spells_of(txn_, db_, h, row.process, names_));
  } else {
    const auto name = row_name(row.record);
    if (name.empty()) return {};
    RETURN_IF_ERROR(load_named(row, names_.atom(name), name, spells));
  }
  const auto before = spells;
  if (!apply_to_spells(spells, row)) return {};
  for (std::size_t i = 0; i < spells.size(); ++i) {
    if (i < before.size() && before[i].until == spells[i].until) continue;
    const auto atom = names_.atom(spells[i].name);
    owners_.put(owner_spell_key(h, spells[i].process, atom, spells[i].from));
    RETURN_IF_ERROR(put_spell(txn_, db_, h, atom, spells[i]));
  }
  return {};
}

}  // namespace

Status store_lives(lmdb::Txn& txn, const Databases& db, std::span<const TailBatch* const> batches,
                   const Incarnations& incarnations, NameTable& names) {
  return LifeWriter(txn, db, incarnations, names).store(batches);
}

Result<std::vector<Life>> read_lives(const lmdb::Txn& txn, const Databases& db, Incarnation home,
                                     const ProcessId& process, NameSource& names) {
  std::vector<Life> out;
  const auto prefix = process_prefix('p', home, process);
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, db.lives));
  ASSIGN_OR_RETURN(bool found, cursor.seek(prefix));
  while (found && starts_with(cursor.key(), prefix)) {
    const auto incarnation = KeyReader(cursor.key().subspan(13)).u32();
    ASSIGN_OR_RETURN(auto life,
                     decode_life(cursor.value(), {incarnation, process.id, process.serial}, names));
    out.push_back(life);
    ASSIGN_OR_RETURN(found, cursor.next());
  }
  return out;
}

Result<std::vector<NameSpell>> read_spells_of(const lmdb::Txn& txn, const Databases& db,
                                              Incarnation home, const ProcessId& process,
                                              NameSource& names) {
  std::vector<NameSpell> out;
  const auto prefix = process_prefix('o', home, process);
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, db.lives));
  ASSIGN_OR_RETURN(bool found, cursor.seek(prefix));
  while (found && starts_with(cursor.key(), prefix)) {
    ASSIGN_OR_RETURN(auto spell, decode_spell(cursor.value()));
    KeyReader key(cursor.key().subspan(13));
    spell.process = {key.u32(), process.id, process.serial};
    const auto atom = key.u32();
    spell.from = {key.i64()};
    if (!key.done()) return fail(Code::corrupt, "a name's key is damaged");
    ASSIGN_OR_RETURN(spell.name, names.atom(atom));
    out.push_back(spell);
    ASSIGN_OR_RETURN(found, cursor.next());
  }
  return out;
}

Result<std::vector<NameSpell>> read_spells_named(const lmdb::Txn& txn, const Databases& db,
                                                 Incarnation home, NameId atom, NameSource& names) {
  std::vector<NameSpell> out;
  ASSIGN_OR_RETURN(const auto name, names.atom(atom));
  const auto prefix = name_spell_prefix(home, atom);
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, db.lives));
  ASSIGN_OR_RETURN(bool found, cursor.seek(prefix));
  while (found && starts_with(cursor.key(), prefix)) {
    ASSIGN_OR_RETURN(const auto spell, named_spell(cursor, name));
    out.push_back(spell);
    ASSIGN_OR_RETURN(found, cursor.next());
  }
  return out;
}

Result<std::vector<std::byte>> carry_lives(const lmdb::Txn& old_txn, const Databases& old_db,
                                           NameSource& old_names, Bytes from_key, std::size_t limit,
                                           lmdb::Txn& txn, const Databases& db, NameTable& names,
                                           const Incarnations& incarnations) {
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(old_txn, old_db.lives));
  ByteWriter out;
  Result<bool> found = from_key.empty() ? cursor.first() : cursor.seek(from_key);
  for (;; found = cursor.next()) {
    if (!found) return std::unexpected(found.error());
    if (!*found) return std::vector<std::byte>{};
    if (limit-- == 0) return std::vector<std::byte>(cursor.key().begin(), cursor.key().end());
    KeyReader key(cursor.key());
    const char kind = static_cast<char>(key.u8());
    const auto home = key.u32();
    if (!incarnations.exists(home) || incarnations.vm_replaced(home)) continue;
    if (kind == 'p') {
      ProcessId process;
      process.id = key.u32();
      process.serial = key.u32();
      process.incarnation = key.u32();
      ASSIGN_OR_RETURN(const auto life, decode_life(cursor.value(), process, old_names));
      if (life.exited) continue;
      encode_life(life, names, out);
      RETURN_IF_ERROR(txn.put(db.lives, process_key('p', home, process), out.bytes()));
    } else if (kind == 'n') {
      const auto atom = key.u32();
      ASSIGN_OR_RETURN(const auto name, old_names.atom(atom));
      ASSIGN_OR_RETURN(const auto spell, named_spell(cursor, name));
      if (!spell.until) RETURN_IF_ERROR(put_spell(txn, db, home, names.atom(name), spell));
    }
  }
}

}  // namespace scope::store
