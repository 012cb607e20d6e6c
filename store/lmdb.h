// RAII over LMDB, the only way to it: lmdb.h of the library is included by lmdb.cc alone.
//
// Life   Bytes that get() or a cursor return point into the map: they die with the transaction, and in a write
//        transaction with its next put or del. An Env outlives its transactions and cursors.
// Thread An Env may be shared; a Txn and its cursors belong to one thread at a time. One write transaction at a time.
// Errors too_large: the map is full (roll the partition); disk_full; io; corrupt.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "ei_codec/base/result.h"
#include "store/bytes.h"

struct MDB_env;
struct MDB_txn;
struct MDB_cursor;

namespace scope::store::lmdb {

using Dbi = unsigned;

struct EnvOptions {
  std::uint64_t map_bytes = 0;
  bool read_only = false;  // RDONLY|NOLOCK: REQUIRES that nobody writes to it
  bool sync = true;
};

class Env {
 public:
  static Result<Env> open(const std::string& path, const EnvOptions& options);
  std::uint64_t used_bytes() const;  // pages ever used, in bytes: what the file takes on disk
  std::uint64_t map_bytes() const;
  MDB_env* get() const { return env_.get(); }

 private:
  struct Close {
    void operator()(MDB_env* env) const;
  };
  std::unique_ptr<MDB_env, Close> env_;
};

struct DatabaseSize {
  std::uint64_t entries = 0, bytes = 0;  // of its pages
};

class Txn {
 public:
  static Result<Txn> begin(const Env& env, bool write);

  Result<Dbi> open_db(const char* name, bool create);
  Result<std::optional<Bytes>> get(Dbi dbi, Bytes key) const;
  Status put(Dbi dbi, Bytes key, Bytes value);
  Status append(Dbi dbi, Bytes key, Bytes value);  // REQUIRES key > all keys of dbi
  Result<std::byte*> reserve(Dbi dbi, Bytes key, std::size_t size,
                             bool append);  // room to write a value into
  Result<bool> del(Dbi dbi, Bytes key);     // false: it was not there
  DatabaseSize size(Dbi dbi) const;
  Status commit();  // the transaction is over, whatever comes back
  MDB_txn* get() const { return txn_.get(); }

 private:
  struct Abort {
    void operator()(MDB_txn* txn) const;
  };
  std::unique_ptr<MDB_txn, Abort> txn_;
};

// Every move answers whether it stands on a row.
class Cursor {
 public:
  static Result<Cursor> open(const Txn& txn, Dbi dbi);
  Result<bool> first();
  Result<bool> last();
  Result<bool> seek(Bytes key);  // the first row with a key >= key
  Result<bool> next();
  Result<bool> previous();
  Bytes key() const { return key_; }
  Bytes value() const { return value_; }

 private:
  Result<bool> move(int op, Bytes key);
  struct Close {
    void operator()(MDB_cursor* cursor) const;
  };
  std::unique_ptr<MDB_cursor, Close> cursor_;
  Bytes key_, value_;
};

}  // namespace scope::store::lmdb
