#include "test/bench/rivals.h"

#include <fcntl.h>
#include <lmdb.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <vector>
#if SCOPE_HAS_SQLITE
#include <sqlite3.h>
#endif

#include "ei_codec/base/result.h"

namespace scope::test {
namespace {

using codec::Bytes;
using codec::EventType;

void store_be(std::uint8_t* to, std::uint64_t value, int bytes) {
  for (int i = bytes; i-- > 0; value >>= 8) to[i] = static_cast<std::uint8_t>(value);
}

class RowLmdb final : public Rival {
 public:
  explicit RowLmdb(const std::string& folder) : path_(folder + "/rows.mdb") {
    check(mdb_env_create(&env_));
    check(mdb_env_set_mapsize(env_, 64ull << 30));
    check(mdb_env_set_maxdbs(env_, 8));
    check(mdb_env_open(env_, path_.c_str(), MDB_NOSUBDIR | MDB_NORDAHEAD | MDB_NOTLS, 0644));
    MDB_txn* txn = nullptr;
    check(mdb_txn_begin(env_, nullptr, 0, &txn));
    const char* const names[] = {"rows", "pid", "pid_type", "state", "mfa", "hash"};
    for (std::size_t i = 0; i < db_.size(); ++i)
      check(mdb_dbi_open(txn, names[i], MDB_CREATE, &db_[i]));
    check(mdb_txn_commit(txn));
  }
  ~RowLmdb() override { mdb_env_close(env_); }
  const char* name() const override { return "row_lmdb"; }
  double bytes() const override { return static_cast<double>(std::filesystem::file_size(path_)); }

  void add(std::span<const RivalEvent> events) override {
    for (; !events.empty(); events = events.subspan(std::min(kRivalCommit, events.size()))) {
      MDB_txn* txn = nullptr;
      check(mdb_txn_begin(env_, nullptr, 0, &txn));
      for (const auto& e : events.first(std::min(kRivalCommit, events.size()))) put(txn, e);
      check(mdb_txn_commit(txn));
    }
  }
  std::size_t state_at(std::uint32_t node, std::uint32_t pid, std::int64_t time) override {
    std::array<std::uint8_t, 24> key{};
    process(key.data(), node, pid);
    store_be(key.data() + 8, flip(time), 8);
    store_be(key.data() + 16, ~0ULL, 8);
    MDB_txn* txn = nullptr;
    check(mdb_txn_begin(env_, nullptr, MDB_RDONLY, &txn));
    MDB_cursor* cursor = nullptr;
    check(mdb_cursor_open(txn, db_[3], &cursor));
    MDB_val k{key.size(), key.data()}, v{};
    int rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    rc = rc == 0 ? mdb_cursor_get(cursor, &k, &v, MDB_PREV)
                 : mdb_cursor_get(cursor, &k, &v, MDB_LAST);
    std::size_t out = 0;
    if (rc == 0 && std::memcmp(k.mv_data, key.data(), 8) == 0) {
      MDB_val row_key{8, static_cast<std::uint8_t*>(k.mv_data) + 16};
      check(mdb_get(txn, db_[0], &row_key, &v));
      out = v.mv_size;
    }
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    return out;
  }
  std::uint64_t count(std::uint32_t function) override {
    std::array<std::uint8_t, 4> key{};
    store_be(key.data(), function, 4);
    MDB_txn* txn = nullptr;
    check(mdb_txn_begin(env_, nullptr, MDB_RDONLY, &txn));
    MDB_cursor* cursor = nullptr;
    check(mdb_cursor_open(txn, db_[4], &cursor));
    MDB_val k{key.size(), key.data()}, v{};
    std::uint64_t n = 0;
    for (int rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
         rc == 0 && std::memcmp(k.mv_data, key.data(), 4) == 0;
         rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT))
      ++n;
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    return n;
  }

 private:
  static void check(int rc) {
    if (rc != 0) {
      std::fprintf(stderr, "lmdb: %s\n", mdb_strerror(rc));
      std::abort();
    }
  }
  static std::uint64_t flip(std::int64_t t) { return static_cast<std::uint64_t>(t) ^ 1ULL << 63; }
  static void process(std::uint8_t* to, std::uint32_t node, std::uint32_t pid) {
    store_be(to, node, 4);
    store_be(to + 4, pid, 4);
  }
  void index(MDB_txn* txn, MDB_dbi db, const std::uint8_t* key, std::size_t size) {
    MDB_val k{size, const_cast<std::uint8_t*>(key)}, v{0, nullptr};
    check(mdb_put(txn, db, &k, &v, 0));
  }
  void put(MDB_txn* txn, const RivalEvent& e) {
    const auto& r = e.record;
    std::array<std::uint8_t, 8> id{};
    store_be(id.data(), ++last_, 8);
    MDB_val k{8, id.data()}, v{48 + r.payload.size(), nullptr};
    check(mdb_put(txn, db_[0], &k, &v, MDB_RESERVE | MDB_APPEND));
    auto* to = static_cast<std::uint8_t*>(v.mv_data);
    const std::uint64_t head[6] = {static_cast<std::uint64_t>(r.time.ns),
                                   std::uint64_t{e.node} << 32 | r.pid.id,
                                   std::uint64_t{e.function} << 32 | r.pid.serial,
                                   static_cast<std::uint64_t>(r.type) << 32 | r.flags,
                                   std::uint64_t{r.peer.creation} << 32 | r.peer.id,
                                   r.match_hash};
    std::memcpy(to, head, sizeof head);
    if (!r.payload.empty()) std::memcpy(to + sizeof head, r.payload.data(), r.payload.size());
    std::array<std::uint8_t, 28> key{};
    process(key.data(), e.node, r.pid.id);
    store_be(key.data() + 8, flip(r.time.ns), 8);
    std::memcpy(key.data() + 16, id.data(), 8);
    index(txn, db_[1], key.data(), 24);
    if (r.type == EventType::state_change) index(txn, db_[3], key.data(), 24);
    key[8] = static_cast<std::uint8_t>(r.type);
    store_be(key.data() + 9, flip(r.time.ns), 8);
    std::memcpy(key.data() + 17, id.data(), 8);
    index(txn, db_[2], key.data(), 25);
    if (e.function != 0) {
      store_be(key.data(), e.function, 4);
      store_be(key.data() + 4, flip(r.time.ns), 8);
      std::memcpy(key.data() + 12, id.data(), 8);
      index(txn, db_[4], key.data(), 20);
    }
    if (r.has(codec::TraceRecord::kHashed)) {
      store_be(key.data(), r.match_hash, 8);
      std::memcpy(key.data() + 8, id.data(), 8);
      index(txn, db_[5], key.data(), 16);
    }
  }

  const std::string path_;
  MDB_env* env_ = nullptr;
  std::array<MDB_dbi, 6> db_{};
  std::uint64_t last_ = 0;
};

#if SCOPE_HAS_SQLITE
class Sqlite final : public Rival {
 public:
  explicit Sqlite(const std::string& folder) : path_(folder + "/rows.sqlite") {
    check(sqlite3_open(path_.c_str(), &db_));
    run("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-65536;"
        "CREATE TABLE e(id INTEGER PRIMARY KEY, ts INT, pid INT, type INT, mfa INT, hash INT, peer "
        "INT, "
        "payload BLOB);"
        "CREATE INDEX e1 ON e(pid, ts); CREATE INDEX e2 ON e(pid, type, ts);"
        "CREATE INDEX e3 ON e(pid, ts) WHERE type = 7; CREATE INDEX e4 ON e(mfa, ts) WHERE mfa > 0;"
        "CREATE INDEX e5 ON e(hash) WHERE hash IS NOT NULL");
    prepare("INSERT INTO e(ts, pid, type, mfa, hash, peer, payload) VALUES(?,?,?,?,?,?,?)",
            &insert_);
    prepare("SELECT payload FROM e WHERE pid = ? AND type = 7 AND ts <= ? ORDER BY ts DESC LIMIT 1",
            &state_);
    prepare("SELECT count(*) FROM e WHERE mfa = ? AND mfa > 0", &count_);
  }
  ~Sqlite() override {
    for (auto* s : {insert_, state_, count_}) sqlite3_finalize(s);
    sqlite3_close(db_);
  }
  const char* name() const override { return "sqlite"; }
  double bytes() const override {
    sqlite3_wal_checkpoint_v2(db_, nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
    return static_cast<double>(std::filesystem::file_size(path_));
  }
  void add(std::span<const RivalEvent> events) override {
    for (; !events.empty(); events = events.subspan(std::min(kRivalCommit, events.size()))) {
      run("BEGIN");
      for (const auto& e : events.first(std::min(kRivalCommit, events.size()))) {
        const auto& r = e.record;
        sqlite3_bind_int64(insert_, 1, r.time.ns);
        sqlite3_bind_int64(insert_, 2, process(e.node, r.pid.id));
        sqlite3_bind_int(insert_, 3, static_cast<int>(r.type));
        sqlite3_bind_int(insert_, 4, static_cast<int>(e.function));
        if (r.has(codec::TraceRecord::kHashed)) {
          sqlite3_bind_int64(insert_, 5, static_cast<std::int64_t>(r.match_hash));
        } else {
          sqlite3_bind_null(insert_, 5);
        }
        sqlite3_bind_int64(insert_, 6, std::int64_t{r.peer.creation} << 32 | r.peer.id);
        sqlite3_bind_blob64(insert_, 7, r.payload.data(), r.payload.size(), SQLITE_STATIC);
        if (sqlite3_step(insert_) != SQLITE_DONE) check(SQLITE_ERROR);
        sqlite3_reset(insert_);
      }
      run("COMMIT");
    }
  }
  std::size_t state_at(std::uint32_t node, std::uint32_t pid, std::int64_t time) override {
    sqlite3_bind_int64(state_, 1, process(node, pid));
    sqlite3_bind_int64(state_, 2, time);
    const auto size = sqlite3_step(state_) == SQLITE_ROW
                          ? static_cast<std::size_t>(sqlite3_column_bytes(state_, 0))
                          : 0;
    sqlite3_reset(state_);
    return size;
  }
  std::uint64_t count(std::uint32_t function) override {
    sqlite3_bind_int64(count_, 1, function);
    sqlite3_step(count_);
    const auto n = sqlite3_column_int64(count_, 0);
    sqlite3_reset(count_);
    return static_cast<std::uint64_t>(n);
  }

 private:
  static std::int64_t process(std::uint32_t node, std::uint32_t pid) {
    return std::int64_t{node} << 32 | pid;
  }
  void check(int rc) const {
    if (rc == SQLITE_OK) return;
    std::fprintf(stderr, "sqlite: %s\n", sqlite3_errmsg(db_));
    std::abort();
  }
  void run(const char* sql) { check(sqlite3_exec(db_, sql, nullptr, nullptr, nullptr)); }
  void prepare(const char* sql, sqlite3_stmt** out) {
    check(sqlite3_prepare_v2(db_, sql, -1, out, nullptr));
  }

  const std::string path_;
  sqlite3* db_ = nullptr;
  sqlite3_stmt *insert_ = nullptr, *state_ = nullptr, *count_ = nullptr;
};
#endif

class EtfFile final : public Rival {
 public:
  EtfFile(const std::string& folder, std::vector<std::string> nodes)
      : path_(folder + "/events.etf"),
        nodes_(std::move(nodes)),
        fd_(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    SCOPE_CHECK(fd_ >= 0);
    buffer_.reserve(1u << 20);
  }
  ~EtfFile() override { ::close(fd_); }
  const char* name() const override { return "ttb_file"; }
  double bytes() const override { return static_cast<double>(std::filesystem::file_size(path_)); }
  void add(std::span<const RivalEvent> events) override {
    for (std::size_t i = 0; i < events.size(); ++i) {
      const auto term = events[i].term;
      std::uint8_t head[6] = {0, 0, 0, 0, 0, 131};
      store_be(head + 1, term.size() + 1, 4);
      buffer_.insert(buffer_.end(), head, head + 6);
      const auto* from = reinterpret_cast<const std::uint8_t*>(term.data());
      buffer_.insert(buffer_.end(), from, from + term.size());
      if (buffer_.size() >= (1u << 20) - 65536) write();
      if ((i + 1) % kRivalCommit == 0) sync();
    }
    sync();
  }
  // Reads all of it: there is nothing else to go by. Terms are read only as far as it takes to leave them out.
  std::size_t state_at(std::uint32_t node, std::uint32_t pid, std::int64_t time) override {
    std::size_t found = 0;
    std::int64_t newest = 0;
    scan([&](const codec::TermView& event) {
      const auto who = event.element(1).pid();
      if (!who || who->id != pid || who->node != nodes_[node]) return;
      const auto size = event.arity().value_or(0);
      if (size != 6 || !event.element(4).is_tuple("state", 2)) return;
      const auto at = event.element(size - 1).integer().value_or(0);
      if (at > time || (found != 0 && at < newest)) return;
      newest = at;
      found = event.element(4).element(1).bytes().size();
    });
    return found;
  }
  std::uint64_t count(std::uint32_t) override { return 0; }  // not compared

 private:
  template <typename Use>
  void scan(Use use) {
    std::vector<std::byte> piece(4u << 20);
    std::size_t held = 0;
    for (off_t at = 0;;) {
      const auto got = ::pread(fd_, piece.data() + held, piece.size() - held, at);
      SCOPE_CHECK(got >= 0);
      if (got == 0) return;
      at += got;
      held += static_cast<std::size_t>(got);
      std::size_t begin = 0;
      while (held - begin >= 6) {
        std::size_t size = 0;
        for (int i = 1; i <= 4; ++i)
          size = size << 8 | static_cast<std::uint8_t>(piece[begin + static_cast<std::size_t>(i)]);
        if (held - begin < 5 + size) break;
        use(codec::TermView::unchecked(piece.data() + begin + 6, nullptr));
        begin += 5 + size;
      }
      std::memmove(piece.data(), piece.data() + begin, held - begin);
      held -= begin;
    }
  }
  void write() {
    for (std::size_t done = 0; done < buffer_.size();) {
      const auto n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
      SCOPE_CHECK(n > 0);
      done += static_cast<std::size_t>(n);
    }
    buffer_.clear();
  }
  void sync() {
    write();
    SCOPE_CHECK(::fdatasync(fd_) == 0);
  }

  const std::string path_;
  const std::vector<std::string> nodes_;
  const int fd_;
  std::vector<std::uint8_t> buffer_;
};

}  // namespace

std::unique_ptr<Rival> make_row_lmdb(const std::string& folder) {
  return std::make_unique<RowLmdb>(folder);
}
std::unique_ptr<Rival> make_sqlite([[maybe_unused]] const std::string& folder) {
#if SCOPE_HAS_SQLITE
  return std::make_unique<Sqlite>(folder);
#else
  return nullptr;
#endif
}
std::unique_ptr<Rival> make_etf_file(const std::string& folder, std::vector<std::string> nodes) {
  return std::make_unique<EtfFile>(folder, std::move(nodes));
}

}  // namespace scope::test
