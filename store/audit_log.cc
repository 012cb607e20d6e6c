#include "store/audit_log.h"

#include <fmt/format.h>

#include <array>

#include "store/bytes.h"

namespace scope::store {
namespace {

constexpr std::uint64_t kMapBytes = 512ull << 20;  // of address space; entries are at most 160 MB
constexpr unsigned kVersion = 1;
constexpr std::size_t kHead = 1 + 8;

std::array<std::byte, 8> key_of(std::uint64_t number) {
  std::array<std::byte, 8> key;
  for (std::size_t i = 0; i < 8; ++i) key[i] = static_cast<std::byte>(number >> (56 - 8 * i));
  return key;
}

std::uint64_t number_of(Bytes key) {
  std::uint64_t n = 0;
  for (const auto b : key) n = n << 8 | std::to_integer<std::uint64_t>(b);
  return n;
}

Status put(lmdb::Txn& txn, lmdb::Dbi db, std::uint64_t number, std::int64_t at, Bytes term) {
  ByteWriter value;
  value.u8(kVersion);
  value.i64(at);
  value.raw(term);
  return txn.put(db, key_of(number), value.bytes());
}

Status check_size(Bytes term) {
  if (term.size() <= AuditLog::kMostBytes) return {};
  return fail(Code::too_large, fmt::format("an audit entry of {} bytes", term.size()));
}

}  // namespace

Result<std::unique_ptr<AuditLog>> AuditLog::open(const std::string& folder, bool sync) {
  lmdb::EnvOptions options;
  options.map_bytes = kMapBytes;
  options.sync = sync;
  ASSIGN_OR_RETURN(auto env, lmdb::Env::open(folder + "/audit.mdb", options));
  ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(env, true));
  ASSIGN_OR_RETURN(const auto db, txn.open_db("audit", true));
  std::uint64_t next = 1;
  {
    ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, db));
    ASSIGN_OR_RETURN(const bool any, cursor.last());
    if (any) next = number_of(cursor.key()) + 1;
  }
  RETURN_IF_ERROR(txn.commit());
  return std::unique_ptr<AuditLog>(new AuditLog(std::move(env), db, next));
}

Result<std::uint64_t> AuditLog::append(ClusterTime at, Bytes term) {
  RETURN_IF_ERROR(check_size(term));
  const std::lock_guard lock(writing_);
  ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(env_, true));
  RETURN_IF_ERROR(put(txn, db_, next_, at.ns, term));
  if (next_ > kMost) RETURN_IF_ERROR(txn.del(db_, key_of(next_ - kMost)));
  RETURN_IF_ERROR(txn.commit());
  return next_++;
}

Status AuditLog::replace(std::uint64_t number, Bytes term) {
  RETURN_IF_ERROR(check_size(term));
  const std::lock_guard lock(writing_);
  ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(env_, true));
  ASSIGN_OR_RETURN(const auto found, txn.get(db_, key_of(number)));
  if (!found) return {};
  ByteReader in(*found);
  in.u8();
  const auto at = in.i64();
  if (!in.ok()) return fail(Code::corrupt, fmt::format("audit entry {} is damaged", number));
  RETURN_IF_ERROR(put(txn, db_, number, at, term));
  return txn.commit();
}

Result<AuditPage> AuditLog::read(const AuditRange& range) const {
  AuditPage page;
  ASSIGN_OR_RETURN(const auto txn, lmdb::Txn::begin(env_, false));
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, db_));
  ASSIGN_OR_RETURN(bool there, cursor.first());
  if (!there) return page;
  page.dropped = number_of(cursor.key()) - 1;
  // Onto the last row below `before`.
  ASSIGN_OR_RETURN(there, cursor.seek(key_of(range.before)));
  ASSIGN_OR_RETURN(there, there ? cursor.previous() : cursor.last());
  while (there) {
    ByteReader in(cursor.value());
    const auto version = in.u8();
    const ClusterTime at{in.i64()};
    const auto term = codec::view(in.rest());
    const bool whole = cursor.value().size() > kHead && version == kVersion && term &&
                       term->size() + kHead == cursor.value().size();
    if (!whole) {
      ++page.damaged;
    } else if (at < range.since) {
      break;
    } else if (at < range.until) {
      if (page.entries.size() == range.limit) {
        page.more = true;
        break;
      }
      const auto bytes = term->bytes();
      page.entries.push_back({number_of(cursor.key()), at, {bytes.begin(), bytes.end()}});
    }
    ASSIGN_OR_RETURN(there, cursor.previous());
  }
  return page;
}

}  // namespace scope::store
