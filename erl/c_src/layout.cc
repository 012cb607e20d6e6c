#include "erl/c_src/layout.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

namespace scope::tracer {

Layout layout;

namespace {

constexpr unsigned kThingBytes = 80;   // so much of a boxed sample is looked at
constexpr unsigned kEntryBytes = 160;  // and of a fun's entry

// Reads memory that may not be there; false then, and where the kernel does not allow it.
bool safe_read(const void* from, void* to, std::size_t size) {
  const iovec local{to, size}, remote{const_cast<void*>(from), size};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == static_cast<ssize_t>(size);
}

// Walks a list of tuples of `arity`; false when it is none or `each` is not satisfied. At least one element.
template <typename F>
bool all_tuples(ErlNifEnv* env, ERL_NIF_TERM samples, const char* key, int arity, F each) {
  ERL_NIF_TERM list, head;
  if (!enif_get_map_value(env, samples, enif_make_atom(env, key), &list) || is_nil(list)) {
    return false;
  }
  for (; enif_get_list_cell(env, list, &head, &list);) {
    int n;
    const ERL_NIF_TERM* e;
    if (!enif_get_tuple(env, head, &n, &e) || n != arity || !each(e)) return false;
  }
  return true;
}

template <typename F>
bool any_offset(unsigned from, unsigned to, unsigned step, F fits, unsigned& found) {
  for (unsigned at = from; at <= to; at += step) {
    if (!fits(at)) continue;
    found = at;
    return true;
  }
  return false;
}

// From wide to narrow, unrotated first: the samples hold every bit of an id alone, which leaves one reading.
template <typename F>
bool any_rotation(Layout::Rotation& found, F fits) {
  for (unsigned bits = 0; bits <= 28; ++bits) {
    for (unsigned by = bits ? 1 : 0; by <= (bits ? 4 : 0) && by <= bits; ++by) {
      found = {bits, by};
      if (fits()) return true;
    }
  }
  return false;
}

constexpr std::size_t kMostSamples = 256;

// {Pid, Id, Serial}
bool pids(ErlNifEnv* env, ERL_NIF_TERM samples) {
  struct Sample {
    ERL_NIF_TERM word;
    unsigned id, serial;
  };
  static Sample s[kMostSamples];  // once, at load
  std::size_t n = 0;
  if (!all_tuples(env, samples, "pids", 3, [&](const ERL_NIF_TERM* e) {
        if (n == kMostSamples || !is_local_pid(e[0])) return false;
        s[n].word = e[0];
        return enif_get_uint(env, e[1], &s[n].id) && enif_get_uint(env, e[2], &s[n++].serial);
      })) {
    return false;
  }
  return any_rotation(layout.pid_slot, [&] {
    for (layout.serial_bits = 32; layout.serial_bits >= 10; --layout.serial_bits) {
      for (layout.id_bits = 28; layout.id_bits >= 10; --layout.id_bits) {
        if (layout.id_bits < layout.pid_slot.bits) break;
        if (std::all_of(s, s + n, [](const Sample& x) {
              return pid_id(x.word) == x.id && pid_serial(x.word) == x.serial;
            })) {
          return true;
        }
      }
    }
    return false;
  });
}

// {Port, Id}
bool ports(ErlNifEnv* env, ERL_NIF_TERM samples) {
  struct Sample {
    ERL_NIF_TERM word;
    ErlNifUInt64 id;
  };
  static Sample s[kMostSamples];
  std::size_t n = 0;
  if (!all_tuples(env, samples, "ports", 2, [&](const ERL_NIF_TERM* e) {
        if (n == kMostSamples || !is_local_port(e[0])) return false;
        s[n].word = e[0];
        return enif_get_uint64(env, e[1], &s[n++].id) != 0;
      })) {
    return false;
  }
  return any_rotation(layout.port_slot, [&] {
    for (layout.port_bits = 60; layout.port_bits >= 20; --layout.port_bits) {
      if (layout.port_bits < layout.port_slot.bits) break;
      if (std::all_of(s, s + n, [](const Sample& x) { return port_id(x.word) == x.id; })) {
        return true;
      }
    }
    return false;
  });
}

// By a sample of it. False if another kind has the same bits.
bool learn_kind(ErlNifEnv* env, ERL_NIF_TERM term) {
  std::uint64_t header;
  if (!safe_read(boxed(term), &header, sizeof header)) return false;
  auto& kind = layout.kinds[header & 0x3F];
  const auto told = static_cast<std::uint8_t>(enif_term_type(env, term));
  if (kind != 0 && kind != told) return false;
  kind = told;
  return true;
}

const char* immediates(ErlNifEnv* env, ERL_NIF_TERM samples) {
  if (!is_nil(enif_make_list(env, 0))) return "nil";
  // {Atom, Latin1Name}: the number in the word names the atom and no other
  if (!all_tuples(env, samples, "atoms", 2, [&](const ERL_NIF_TERM* e) {
        char text[256];
        if (!enif_get_string(env, e[1], text, sizeof text, ERL_NIF_LATIN1)) return false;
        return is_atom(e[0]) && enif_make_atom(env, text) == e[0] && atom_of(atom_id(e[0])) == e[0];
      })) {
    return "atoms";
  }
  if (!all_tuples(env, samples, "smalls", 1, [&](const ERL_NIF_TERM* e) {
        ErlNifSInt64 value;
        return is_small(e[0]) && enif_get_int64(env, e[0], &value) && value == small_value(e[0]);
      })) {
    return "small integers";
  }
  if (!pids(env, samples)) return "pids";
  if (!ports(env, samples)) return "ports";
  // None of these may be taken for one of the above.
  if (!all_tuples(env, samples, "others", 1, [&](const ERL_NIF_TERM* e) {
        return !is_atom(e[0]) && !is_small(e[0]) && !is_local_pid(e[0]) && !is_local_port(e[0]) &&
               !is_nil(e[0]) &&
               is_cons(e[0]) == (enif_term_type(env, e[0]) == ERL_NIF_TERM_TYPE_LIST) &&
               is_boxed(e[0]) != is_cons(e[0]) && (is_cons(e[0]) || learn_kind(env, e[0]));
      })) {
    return "boxed terms";
  }
  return nullptr;
}

// {Ref, <<ids, 32 bits native each>>}; all samples have one header, and as many ids at one place.
Layout::Reference references(ErlNifEnv* env, ERL_NIF_TERM samples, const char* key) {
  Layout::Reference found;
  const bool ok = any_offset(
      8, kThingBytes - 4 * 5, 4,
      [&](unsigned candidate) {
        found = {};
        return all_tuples(env, samples, key, 2, [&](const ERL_NIF_TERM* e) {
          ErlNifBinary b;
          std::byte thing[kThingBytes];
          if (!is_boxed(e[0]) || !enif_inspect_binary(env, e[1], &b) || b.size > 20) return false;
          if (!safe_read(boxed(e[0]), thing, candidate + b.size)) return false;
          const auto word = load<std::uint64_t>(thing);
          const auto count = static_cast<unsigned>(b.size / 4);
          if (found.count && (found.header != word || found.count != count)) return false;
          found = {word, candidate, count};
          return std::memcmp(thing + candidate, b.data, b.size) == 0;
        });
      },
      found.ids);
  if (!ok) return {};
  return found;
}

// {Big, Negative :: 0 | 1, <<magnitude, native, whole words>>}
void bigs(ErlNifEnv* env, ERL_NIF_TERM samples) {
  std::uint64_t tag[2] = {};
  const bool ok = all_tuples(env, samples, "bigs", 3, [&](const ERL_NIF_TERM* e) {
    unsigned negative;
    ErlNifBinary b;
    if (!is_boxed(e[0]) || !enif_get_uint(env, e[1], &negative) || negative > 1 ||
        !enif_inspect_binary(env, e[2], &b)) {
      return false;
    }
    const auto header = load<std::uint64_t>(boxed(e[0]));
    if ((header >> 6) * 8 != b.size) return false;
    if (tag[negative] && tag[negative] != (header & 0x3F)) return false;
    tag[negative] = header & 0x3F;
    return std::memcmp(boxed(e[0]) + 8, b.data, b.size) == 0;
  });
  if (!ok || tag[0] == tag[1]) return;
  layout.big_tag[0] = tag[0];
  layout.big_tag[1] = tag[1];
}

// {Fun}: external funs. What tells them: bits of the header, or a word that is the same atom in all of them; never so in
// a local one.
template <typename F>
bool external_funs(ErlNifEnv* env, ERL_NIF_TERM samples, F never_local) {
  constexpr unsigned kWords = 6;
  std::uint64_t ones[kWords], zeros[kWords];
  for (unsigned w = 0; w < kWords; ++w) ones[w] = zeros[w] = ~0ull;
  if (!all_tuples(env, samples, "exports", 1, [&](const ERL_NIF_TERM* e) {
        std::byte thing[8 * kWords] = {};
        if (!is_boxed(e[0]) || !safe_read(boxed(e[0]), thing, 8)) return false;
        (void)safe_read(boxed(e[0]), thing, sizeof thing);
        for (unsigned w = 0; w < kWords; ++w) {
          ones[w] &= load<std::uint64_t>(thing + 8 * w);
          zeros[w] &= ~load<std::uint64_t>(thing + 8 * w);
        }
        return true;
      })) {
    return false;
  }
  const auto use = [&](unsigned offset, std::uint64_t mask, std::uint64_t value) {
    if (!never_local(offset, mask, value)) return false;
    layout.external_at = offset;
    layout.external_mask = mask;
    layout.external_bits = value;
    return true;
  };
  for (unsigned bit = 0; bit < 64; ++bit) {
    const std::uint64_t mask = 1ull << bit;
    if (((ones[0] | zeros[0]) & mask) && use(0, mask, ones[0] & mask)) return true;
  }
  // From OTP 27 on: all that stands above the arity, which in a local fun counts its environment, never empty.
  for (unsigned from = 8; from < 64; from += 8) {
    const std::uint64_t mask = ~0ull << from;
    if (((ones[0] | zeros[0]) & mask) == mask && use(0, mask, ones[0] & mask)) return true;
  }
  for (unsigned w = 1; w < kWords; ++w) {
    if ((ones[w] | zeros[w]) == ~0ull && is_atom(ones[w]) && use(8 * w, ~0ull, ones[w]))
      return true;
  }
  return false;
}

// {Fun, Module, Index, Uniq :: <<_:128>>, Arity}: local funs of several modules, indices, arities, and numbers of free variables.
void funs(ErlNifEnv* env, ERL_NIF_TERM samples) {
  struct Sample {
    std::byte thing[kThingBytes];
    std::byte entry[kEntryBytes];
    ERL_NIF_TERM module;
    std::uint32_t index, arity;
    const unsigned char* uniq;
  };
  constexpr std::size_t kMost = 16;
  static Sample s[kMost];  // once, at load
  for (unsigned pointer = 8; pointer <= 32; pointer += 8) {
    std::size_t n = 0;
    const bool read = all_tuples(env, samples, "funs", 5, [&](const ERL_NIF_TERM* e) {
      ErlNifBinary b;
      if (n == kMost || !is_boxed(e[0]) || !enif_inspect_binary(env, e[3], &b) || b.size != 16)
        return false;
      if (!enif_get_uint(env, e[2], &s[n].index) || !enif_get_uint(env, e[4], &s[n].arity))
        return false;
      s[n].module = e[1];
      s[n].uniq = b.data;
      if (!safe_read(boxed(e[0]), s[n].thing, 32)) return false;
      const auto entry = load<std::uint64_t>(s[n].thing + pointer);
      if ((entry & 7) != 0 || entry < 4096) return false;
      if (!safe_read(reinterpret_cast<const void*>(entry), s[n].entry, kEntryBytes)) return false;
      (void)safe_read(boxed(e[0]), s[n].thing, kThingBytes);
      ++n;
      return true;
    });
    if (!read) continue;
    auto all = [&](auto holds) {
      for (std::size_t i = 0; i < n; ++i) {
        if (!holds(s[i])) return false;
      }
      return true;
    };
    unsigned module, index, uniq, arity;
    const bool found = any_offset(
                           0, kEntryBytes - 8, 8,
                           [&](unsigned at) {
                             return all([&](const Sample& x) {
                               return load<std::uint64_t>(x.entry + at) == x.module;
                             });
                           },
                           module) &&
                       any_offset(
                           0, kEntryBytes - 4, 4,
                           [&](unsigned at) {
                             return all([&](const Sample& x) {
                               return load<std::uint32_t>(x.entry + at) == x.index;
                             });
                           },
                           index) &&
                       any_offset(
                           0, kEntryBytes - 16, 1,
                           [&](unsigned at) {
                             return all([&](const Sample& x) {
                               return std::memcmp(x.entry + at, x.uniq, 16) == 0;
                             });
                           },
                           uniq) &&
                       any_offset(
                           0, 39, 1,
                           [&](unsigned at) {
                             return all([&](const Sample& x) {
                               return load<std::uint8_t>(x.thing + at) == x.arity;
                             });
                           },
                           arity);
    if (!found) continue;
    if (!external_funs(env, samples, [&](unsigned offset, std::uint64_t mask, std::uint64_t value) {
          return all([&](const Sample& x) {
            return (load<std::uint64_t>(x.thing + offset) & mask) != value;
          });
        })) {
      return;
    }
    layout.fun_entry = pointer;
    layout.entry_module = module;
    layout.entry_index = index;
    layout.entry_uniq = uniq;
    layout.fun_arity = arity;
    layout.funs = true;
    return;
  }
}

// By the cells that the samples themselves stand in.
bool cells(ErlNifEnv* env, ERL_NIF_TERM samples) {
  ERL_NIF_TERM list, head, tail, cell[2];
  if (!enif_get_map_value(env, samples, enif_make_atom(env, "others"), &list) || is_nil(list))
    return false;
  for (; enif_get_list_cell(env, list, &head, &tail); list = tail) {
    if (!safe_read(boxed(list), cell, sizeof cell) || cell[0] != head || cell[1] != tail)
      return false;
  }
  return is_nil(list);
}

}  // namespace

const char* calibrate(ErlNifEnv* env, ERL_NIF_TERM samples) {
  layout = {};
  if (const char* wrong = immediates(env, samples)) return wrong;
  layout.reference = references(env, samples, "refs");
  layout.alias = references(env, samples, "aliases");
  bigs(env, samples);
  funs(env, samples);
  layout.cells = cells(env, samples);
  return nullptr;
}

}  // namespace scope::tracer
