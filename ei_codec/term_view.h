// TermView: zero-copy, bounds-checked reading of the Erlang external term format.
//
// What   Every tag that OTP 25-29 sends (SMALL_ATOM_UTF8, ATOM_UTF8, ATOM, SMALL_ATOM, NEW_PID, PID, NEW_PORT, V4_PORT,
//        PORT, NEWER_REFERENCE, NEW_REFERENCE, REFERENCE, SMALL_INTEGER, INTEGER, SMALL_BIG, LARGE_BIG, NEW_FLOAT,
//        FLOAT, SMALL_TUPLE, LARGE_TUPLE, NIL, STRING, LIST, BINARY, BIT_BINARY, MAP, NEW_FUN, EXPORT, and RECORD, the native records of OTP 29:
//        67, fields:32, flags:8 (1: exported), module, name, each field's name, each field's value) and one of our own, kLocalAtom
//        (0xFB, id:32 big-endian): an atom by its id in the batch's string table (session.md).
//        Compressed terms (80), atom cache references (82) and the LOCAL_EXT tag (121) are refused; so are Latin-1
//        atoms (100, 115) with bytes over 127, which no node sends us (our flags have UTF8_ATOMS; in files made by
//        term_to_binary use {minor_version, 2}), and floats that are not finite, which no node can hold.
// Rule   validate() first, once per message: it is iterative (no recursion), checks every length against the end,
//        every atom's UTF-8 and size, depth <= kMaxDepth and nodes <= the limit given. A list's tail does not deepen.
//        A TermView is made only from validated bytes, so its readers need no bounds checks of their own; wrong *types*
//        answer nullopt. Duplicate keys of a map are not looked for: the first one found counts.
// Life   A TermView is a pointer into bytes that someone else owns and that must outlive it. 24 bytes, copy freely.
// Thread Immutable; any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "ei_codec/base/result.h"

namespace scope::codec {

using Bytes = std::span<const std::byte>;

inline constexpr std::uint8_t kVersionMagic = 131;
inline constexpr std::size_t kMaxDepth = 512;

// Resolves kLocalAtom ids. Owned by whoever holds the batch; outlives the views that use it.
class StringTable {
 public:
  virtual ~StringTable() = default;
  // The atom's UTF-8 text; empty optional for an id that the table does not hold.
  virtual std::optional<std::string_view> atom(std::uint32_t id) const = 0;
};

struct ValidateLimits {
  std::size_t max_nodes =
      64u << 20;             // terms visited; each costs at least a byte, so bytes bound it as well
  bool local_atoms = false;  // is kLocalAtom allowed here?
};

enum class TermKind : std::uint8_t {
  atom,
  integer,
  big,
  real,
  pid,
  port,
  reference,
  tuple,
  nil,
  list,
  string,
  binary,
  bitstring,
  map,
  fun,
  export_fun,
  record
};

struct PidParts {
  std::string_view node;
  std::uint32_t id = 0, serial = 0, creation = 0;
  bool operator==(const PidParts&) const = default;
};
struct PortParts {
  std::string_view node;
  std::uint64_t id = 0;
  std::uint32_t creation = 0;
  bool operator==(const PortParts&) const = default;
};
struct RefParts {
  std::string_view node;
  std::uint32_t creation = 0;
  std::uint32_t count = 0;  // 1..5
  std::uint32_t ids[5] = {};
};
struct BigParts {
  bool negative = false;
  Bytes magnitude;  // little-endian, without leading zero bytes
};

class TermView;
class ListView;
class MapView;
struct RecordParts;

// Checks one term at the start of `bytes` (no version magic) and returns its length in bytes. Whether a string table
// holds the local atoms' ids is checked by view() only.
Result<std::size_t> validate(Bytes bytes, const ValidateLimits& limits = {});

// Validates the term at the start of `bytes` and gives a view of it; trailing bytes are allowed and not seen.
Result<TermView> view(Bytes bytes, const ValidateLimits& limits = {},
                      const StringTable* strings = nullptr);
// The same for a message that begins with the version magic 131 and must end where the term ends.
Result<TermView> view_message(Bytes bytes, const ValidateLimits& limits = {});
// Without the magic.
Result<TermView> view_whole(Bytes bytes, const ValidateLimits& limits = {});

class TermView {
 public:
  TermView() = default;  // REQUIRES before any other call: assigned from a view.

  TermKind kind() const;
  Bytes bytes() const;  // the encoded term itself, without the version magic
  std::size_t size() const { return bytes().size(); }

  std::optional<std::string_view> atom() const;
  bool is_atom(std::string_view text) const;
  std::optional<std::int64_t> integer() const;  // also bigs that fit
  std::optional<std::uint64_t> unsigned_integer() const;
  std::optional<BigParts> big() const;  // the big tags only (whether or not they fit 64 bits)
  std::optional<double> real() const;
  std::optional<PidParts> pid() const;
  std::optional<PortParts> port() const;
  std::optional<RefParts> reference() const;
  std::optional<Bytes> binary() const;  // whole bytes only
  // Binaries too. bits <= 8 * bytes.size(); the last byte's unused low bits are to be ignored.
  struct BitParts {
    Bytes bytes;
    std::uint64_t bits = 0;
  };
  std::optional<BitParts> bitstring() const;
  std::optional<std::string_view> binary_text()
      const;  // binary() as characters; not checked for UTF-8

  // Tuples. element(i) is 0-based and walks i elements; iterate with elements() for all of them.
  std::optional<std::uint32_t> arity() const;   // nullopt: not a tuple
  TermView element(std::uint32_t index) const;  // REQUIRES index < *arity()
  std::optional<ListView> elements() const;     // the tuple's elements in order
  // Is it {Tag, ...} with that atom and arity?
  bool is_tuple(std::string_view tag, std::uint32_t arity) const;

  // Lists: nil, list and string (bytes as small integers). An improper tail is ListView::tail().
  std::optional<ListView> list() const;
  // chardata (nested lists of code points and binaries), a binary or an atom as text, cut at `limit` bytes; nullopt if
  // it is none of these. Code points come out as UTF-8; binaries are not checked.
  std::optional<std::string> text(std::size_t limit = 4096) const;

  std::optional<MapView> map() const;

  // Arity and elements of a fun are rarely wanted: module, index, uniq for the match hash and for printing.
  struct FunParts {
    std::string_view module;
    std::uint32_t arity = 0, index = 0, old_uniq = 0;
    Bytes uniq;  // 16 bytes
  };
  std::optional<FunParts> fun() const;
  ListView fun_environment() const;  // REQUIRES kind() == fun: its free variables
  struct ExportParts {
    std::string_view module, function;
    std::uint32_t arity = 0;
    bool operator==(const ExportParts&) const = default;
  };
  std::optional<ExportParts> export_fun() const;
  std::optional<RecordParts> record() const;

  const StringTable* strings() const { return strings_; }
  const std::byte* start() const { return at_; }  // of bytes(), without finding its end

  // REQUIRES: `at` is the start of a term inside bytes that were validated. For the codec's own sources.
  static TermView unchecked(const std::byte* at, const StringTable* strings) {
    return {at, strings};
  }

 private:
  friend class ListView;
  friend class MapView;
  TermView(const std::byte* at, const StringTable* strings) : at_(at), strings_(strings) {}

  const std::byte* at_ = nullptr;
  const StringTable* strings_ = nullptr;
};

// Forward iteration:  for (ListView it = *t.list(); !it.done(); it.next()) use(it.item());
// A list whose tail is encoded as one more list (TermBuilder::list_cons makes such; no node does) is passed through as
// one list; only left() then counts no further than the present part. Items of a string live in static memory.
class ListView {
 public:
  bool done() const { return left_ == 0; }
  void next();
  TermView item() const;                        // REQUIRES !done()
  std::uint32_t left() const { return left_; }  // elements not yet passed
  bool proper() const;                          // walks to the end the first time
  std::optional<TermView> tail() const;         // after done(): the improper tail, if there is one

 private:
  friend class TermView;
  void enter();  // at_ is at a list, a string or a tail: begin there

  const std::byte* at_ = nullptr;  // the present item, or after the last one the tail
  const StringTable* strings_ = nullptr;
  std::uint32_t left_ = 0;
  bool string_ = false;    // at_ is inside a STRING_EXT
  bool has_tail_ = false;  // after the items of this part comes a tail
};

// A native record (OTP 29), whose definition its module holds. Names (atoms) and values are as many, in the same order.
struct RecordParts {
  std::string_view module, name;
  bool exported = false;
  ListView names, values;
};

// Pairs in encoded order:  for (MapView it = *t.map(); !it.done(); it.next()) use(it.key(), it.value());
class MapView {
 public:
  bool done() const { return left_ == 0; }
  void next();
  TermView key() const;
  TermView value() const;
  std::uint32_t left() const { return left_; }
  std::optional<TermView> find(
      std::string_view atom_key) const;  // linear, from the current place on

 private:
  friend class TermView;
  const std::byte* at_ = nullptr;
  const StringTable* strings_ = nullptr;
  std::uint32_t left_ = 0;
};

// The length in bytes of the (validated) term at `at`. Iterative.
std::size_t term_length(const std::byte* at);

// Structural equality as Erlang's =:= (0.0 and -0.0 differ, as since OTP 27), however the terms are encoded: maps in
// any order, atoms and integers in any tag.
bool equal(const TermView& a, const TermView& b);

}  // namespace scope::codec
