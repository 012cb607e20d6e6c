// What the tracer reads of the VM's terms without asking the VM: the bits of immediates, and the words of references,
// big integers and local funs, for which erl_nif has no accessors. Nothing of it is assumed: calibrate() compares every
// reading with samples made in Erlang, whose parts are known, in this very VM. What does not agree is switched off (it
// is encoded by the VM, or left out and marked); without immediates the library refuses to run.
//
// Memory that may not be there (a sample's word that looks like a pointer) is read through the kernel, which refuses
// where we would crash.
//
// Thread calibrate() once, before anything is traced; the rest from any thread.
#pragma once

#include <erl_nif.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace scope::tracer {

struct Layout {
  // A local pid's word, after its tag: bits of the id, then bits of the serial; what is above is the VM's own. A port's.
  unsigned id_bits = 0, serial_bits = 0, port_bits = 0;
  // From OTP 27 on the slot in the VM's table comes first: the lowest bits of the id (as many as the table's size has)
  // stand rotated, so that neighbours lie in different cache lines.
  struct Rotation {
    unsigned bits = 0, by = 0;
    std::uint64_t undo(std::uint64_t value) const {
      const std::uint64_t mask = (1ull << bits) - 1, low = value & mask;
      return (value & ~mask) | ((low >> by | low << (bits - by)) & mask);
    }
  };
  Rotation pid_slot, port_slot;
  // The kind of a boxed term (ErlNifTermType) by the low 6 bits of its header word; 0: not known. enif_term_type() ends the VM
  // for what erl_nif has no name for: OTP 29's native records.
  std::uint8_t kinds[64] = {};
  // Boxed terms by their header word; 0: not calibrated. Offsets are bytes from the header.
  struct Reference {
    std::uint64_t header = 0;
    unsigned ids = 0, count = 0;  // where so many ids of 32 bits begin
  };
  Reference reference, alias;
  std::uint64_t big_tag[2] =
      {};  // the header's low 6 bits, positive and negative; its rest counts the words
  // A local fun: -> its entry; and within the entry.
  unsigned fun_entry = 0, fun_arity = 0, entry_module = 0, entry_index = 0, entry_uniq = 0;
  unsigned external_at = 0;  // an external fun: the word there, masked, is this
  std::uint64_t external_mask = 0, external_bits = 0;
  bool funs = false;
  bool cells = false;  // a list's cell is its head and its tail, where the term points
};
extern Layout layout;

// nullptr, or what is wrong. `samples` is the map that scope_nif:samples/0 makes.
const char* calibrate(ErlNifEnv* env, ERL_NIF_TERM samples);

inline bool is_atom(ERL_NIF_TERM t) { return (t & 0x3F) == 0x0B; }
inline bool is_small(ERL_NIF_TERM t) { return (t & 0xF) == 0xF; }
inline bool is_local_pid(ERL_NIF_TERM t) { return (t & 0xF) == 0x3; }
inline bool is_local_port(ERL_NIF_TERM t) { return (t & 0xF) == 0x7; }
inline bool is_nil(ERL_NIF_TERM t) { return t == 0x3B; }
inline bool is_cons(ERL_NIF_TERM t) { return (t & 3) == 1; }
inline bool is_boxed(ERL_NIF_TERM t) { return (t & 3) == 2; }

inline std::uint32_t atom_id(ERL_NIF_TERM t) { return static_cast<std::uint32_t>(t >> 6); }
inline ERL_NIF_TERM atom_of(std::uint32_t id) { return ERL_NIF_TERM{id} << 6 | 0x0B; }
inline std::int64_t small_value(ERL_NIF_TERM t) { return static_cast<std::int64_t>(t) >> 4; }
inline std::uint32_t pid_id(ERL_NIF_TERM t) {
  return static_cast<std::uint32_t>(layout.pid_slot.undo(t >> 4 & ((1ull << layout.id_bits) - 1)));
}
inline std::uint32_t pid_serial(ERL_NIF_TERM t) {
  return static_cast<std::uint32_t>(t >> 4 >> layout.id_bits & ((1ull << layout.serial_bits) - 1));
}
inline std::uint64_t port_id(ERL_NIF_TERM t) {
  return layout.port_slot.undo(t >> 4 & ((1ull << layout.port_bits) - 1));
}

// REQUIRES is_boxed(t), or is_cons(t) and layout.cells
inline const std::byte* boxed(ERL_NIF_TERM t) {
  return reinterpret_cast<const std::byte*>(t & ~ERL_NIF_TERM{7});
}
template <typename T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// REQUIRES is_boxed(t)
inline unsigned boxed_kind(ERL_NIF_TERM t) {
  return layout.kinds[load<std::uint64_t>(boxed(t)) & 0x3F];
}

// As enif_get_list_cell, which costs a call for each element.
inline bool list_cell(ErlNifEnv* env, ERL_NIF_TERM list, ERL_NIF_TERM& head, ERL_NIF_TERM& tail) {
  if (!layout.cells) return enif_get_list_cell(env, list, &head, &tail);
  if (!is_cons(list)) return false;
  head = load<ERL_NIF_TERM>(boxed(list));
  tail = load<ERL_NIF_TERM>(boxed(list) + sizeof head);
  return true;
}

// The kind of a local reference; nullptr: another node's, or of a kind that is not known.
inline const Layout::Reference* reference_at(const std::byte* thing) {
  const auto header = load<std::uint64_t>(thing);
  if (header == layout.reference.header && layout.reference.count) return &layout.reference;
  return header == layout.alias.header && layout.alias.count ? &layout.alias : nullptr;
}
// REQUIRES layout.funs
inline bool is_external_fun(const std::byte* thing) {
  return (load<std::uint64_t>(thing + layout.external_at) & layout.external_mask) ==
         layout.external_bits;
}

}  // namespace scope::tracer
