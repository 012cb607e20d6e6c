// CompactMaker: the compact payload of ei_codec/capture_record.h, written from records. Atoms become local ones, but for
// those that begin with '$'. Every second message that is whole goes without its hash, so that the reader makes it, unless
// `all_hashes`.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "ei_codec/capture_record.h"
#include "ei_codec/term_tags.h"

namespace scope::codec {

class CompactMaker final : public RecordSink {
 public:
  CompactMaker(std::string node, std::uint32_t creation, bool all_hashes = false)
      : node_(std::move(node)), creation_(creation), all_hashes_(all_hashes) {}

  static bool has_form(const TraceRecord& r) {
    return r.type <= EventType::process_unregister && r.type >= EventType::function_entry;
  }
  // REQUIRES has_form(r)
  void record(const TraceRecord& r) override {
    constexpr unsigned kReaders =
        TraceRecord::kSystem | TraceRecord::kSystemMessage | TraceRecord::kTimeoutNotMessage;
    unsigned flags = r.flags & ~kReaders;
    if (r.has(TraceRecord::kHashed) && !r.has(TraceRecord::kTruncated) && !all_hashes_ &&
        ++messages_ % 2 == 0) {
      flags &= ~unsigned{TraceRecord::kHashed | TraceRecord::kHashBounded};
    }
    const std::size_t start = records_.size();
    put(0, 4);
    put(static_cast<unsigned>(r.type), 1);
    put(r.mfa.arity, 1);
    put(flags, 2);
    put(static_cast<std::uint64_t>(r.time.ns), 8);
    put(r.pid.id, 4);
    put(r.pid.serial, 4);
    if (!r.mfa.module.empty()) {
      put(id(r.mfa.module), 4);
      put(id(r.mfa.function), 4);
    }
    if (flags & TraceRecord::kHashed) put(r.match_hash, 8);
    if (flags & TraceRecord::kTruncated) put(r.original_bytes, 4);
    if (r.peer.kind != Peer::Kind::none) peer(r.peer);
    if (!r.payload.empty()) term(r.payload.data(), r.strings);
    const auto size = static_cast<std::uint32_t>(records_.size() - start);
    std::memcpy(records_.data() + start, &size, 4);
    records_.resize((records_.size() + 7) / 8 * 8);
  }

  const std::vector<std::byte>& records() const { return records_; }
  std::vector<std::byte> strings() const {
    std::vector<std::byte> out;
    for (const auto& [text, id] : ids_) {
      put(out, id, 4);
      put(out, text.size(), 2);
      const auto bytes = std::as_bytes(std::span(text));
      out.insert(out.end(), bytes.begin(), bytes.end());
    }
    return out;
  }

 private:
  static void put(std::vector<std::byte>& out, std::uint64_t value, unsigned bytes) {
    for (; bytes > 0; --bytes, value >>= 8) out.push_back(static_cast<std::byte>(value));
  }
  void put(std::uint64_t value, unsigned bytes) { put(records_, value, bytes); }
  void copy(const std::byte* from, std::size_t size) {
    records_.insert(records_.end(), from, from + size);
  }
  void big(std::uint64_t value, unsigned bytes) {
    while (bytes-- > 0) records_.push_back(static_cast<std::byte>(value >> (8 * bytes)));
  }
  std::uint32_t id(std::string_view text) {
    const auto next = static_cast<std::uint32_t>(ids_.size()) * 2654435761U;
    return ids_.try_emplace(std::string(text), next).first->second;
  }
  void atom(std::string_view text) {
    put(etf::kLocalAtom, 1);
    big(id(text), 4);
  }
  void peer(const Peer& p) {
    const std::string_view node = p.node.empty() ? std::string_view(node_) : p.node;
    const std::uint32_t creation = p.node.empty() ? creation_ : p.creation;
    switch (p.kind) {
      case Peer::Kind::pid:
        put(etf::kNewPid, 1);
        atom(node);
        for (const auto word : {p.id, p.serial, creation}) big(word, 4);
        break;
      case Peer::Kind::remote_name:
        put(etf::kSmallTuple, 1);
        put(2, 1);
        atom(p.name);
        atom(p.node);
        break;
      case Peer::Kind::alias:
        put(etf::kNewerReference, 1);
        big(p.alias.count, 2);
        atom(node);
        big(p.alias.creation, 4);
        for (std::uint32_t i = 0; i < p.alias.count; ++i) big(p.alias.ids[i], 4);
        break;
      case Peer::Kind::port:
        put(etf::kV4Port, 1);
        atom(node);
        for (const auto word : {p.serial, p.id, p.creation}) big(word, 4);
        break;
      default:
        atom(p.name);
    }
  }
  // Copies a term and returns its end.
  const std::byte* term(const std::byte* at, const StringTable* strings) {
    std::string_view text;
    if (const std::byte* end = etf::read_atom(at, strings, text)) {
      text.starts_with('$') ? copy(at, static_cast<std::size_t>(end - at)) : atom(text);
      return end;
    }
    const std::uint8_t tag = etf::u8(at);
    std::size_t head = 1, inner = 1, rest = 0;
    switch (tag) {
      case etf::kSmallTuple:
        head = 2;
        inner = etf::u8(at + 1);
        break;
      case etf::kLargeTuple:
      case etf::kList:
      case etf::kMap:
        head = 5;
        inner = etf::be32(at + 1);
        if (tag == etf::kList) ++inner;
        if (tag == etf::kMap) inner *= 2;
        break;
      case etf::kNewPid:
      case etf::kV4Port:
        rest = 12;
        break;
      case etf::kNewPort:
        rest = 8;
        break;
      case etf::kNewerReference:
        head = 3;
        rest = 4 + 4 * std::size_t{etf::be16(at + 1)};
        break;
      default:
        head = term_length(at);
        inner = 0;
    }
    copy(at, head);
    for (at += head; inner > 0; --inner) at = term(at, strings);
    copy(at, rest);
    return at + rest;
  }

  std::string node_;
  std::uint32_t creation_;
  bool all_hashes_;
  std::map<std::string, std::uint32_t> ids_;
  std::vector<std::byte> records_;
  unsigned messages_ = 0;
};

}  // namespace scope::codec
