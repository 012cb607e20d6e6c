// What the store's tests share: a folder that goes away, a listener that remembers, rows as text.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>

#include "store/trace_store.h"
#include "test/unit/store/batch_maker.h"

namespace scope::test {

class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "scope_store_XXXXXX").string();
    SCOPE_CHECK(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class RecordingListener final : public store::StoreListener {
 public:
  void on_committed(Incarnation n, std::uint64_t seq) override {
    const std::lock_guard lock(mutex_);
    committed_[n] = seq;
    ++acks_;
  }
  void on_out_of_order(Incarnation, std::uint64_t expected, std::uint64_t got) override {
    const std::lock_guard lock(mutex_);
    breaks_.emplace_back(expected, got);
  }
  void on_published() override {}

  std::uint64_t committed(Incarnation n) {
    const std::lock_guard lock(mutex_);
    return committed_[n];
  }
  int acks() {
    const std::lock_guard lock(mutex_);
    return acks_;
  }
  std::vector<std::pair<std::uint64_t, std::uint64_t>> breaks() {
    const std::lock_guard lock(mutex_);
    return breaks_;
  }

 private:
  std::mutex mutex_;
  std::map<Incarnation, std::uint64_t> committed_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> breaks_;
  int acks_ = 0;
};

inline std::string hex(Bytes bytes) {
  std::string out;
  for (const auto b : bytes) out += fmt::format("{:02x}", static_cast<unsigned>(b));
  return out;
}

// The record's term with every atom spelt out, so that it is the same wherever it is kept.
inline std::string payload_text(const codec::TraceRecord& r) {
  if (r.strings == nullptr || r.payload.empty()) return hex(r.payload);
  TermBuilder copy;
  copy.term(r.term());
  return hex(copy.bytes());
}

// Everything that a row says, so that two rows are equal when their texts are.
inline std::string to_text(const ProcessId& p, const codec::TraceRecord& r) {
  std::string alias;
  for (std::uint32_t i = 0; i < r.peer.alias.count; ++i)
    alias += fmt::format("{}.", r.peer.alias.ids[i]);
  return fmt::format(
      "{}.{}.{} @{}#{} {} flags={} {}:{}/{} peer={}:{}/{}/{}.{}/{}/{}{} hash={} orig={} {}",
      p.incarnation, p.id, p.serial, r.time.ns, r.ordinal, codec::event_type_name(r.type), r.flags,
      r.mfa.module, r.mfa.function, r.mfa.arity, static_cast<int>(r.peer.kind), r.peer.node,
      r.peer.creation, r.peer.id, r.peer.serial, r.peer.name, r.peer.alias.node, alias,
      r.match_hash, r.original_bytes, payload_text(r));
}
inline std::string to_text(const store::StoredRow& row) { return to_text(row.process, row.record); }

// All rows of a view that match, by (process, time, ordinal).
inline std::vector<std::string> rows_of(const store::View& view,
                                        const store::RowFilter& filter = {}) {
  std::vector<std::pair<EventId, std::string>> found;
  for (const auto& unit : view.units()) {
    auto rows = view.read(unit, filter);
    if (!rows) {
      ADD_FAILURE() << to_string(rows.error());
      continue;
    }
    for (const auto& row : rows->rows) found.emplace_back(row.id(), to_text(row));
  }
  std::ranges::sort(found);
  std::vector<std::string> out;
  for (auto& [id, text] : found) out.push_back(std::move(text));
  return out;
}

inline std::size_t tail_units(const store::View& view) {
  return static_cast<std::size_t>(std::ranges::count(view.units(), true, &store::Unit::tail));
}

// A store in a folder of its own.
class StoreTest : public ::testing::Test {
 protected:
  StoreTest() { options_.path = folder_.path() + "/db"; }

  void open() {
    auto opened = store::TraceStore::open(options_, &listener_);
    ASSERT_TRUE(opened) << to_string(opened.error());
    store_ = std::move(*opened);
  }
  void reopen() {
    store_.reset();
    open();
  }
  Incarnation incarnation(const BatchMaker& m) {
    auto info = store_->incarnation(m.node(), m.creation(), m.agent_id());
    if (!info) {
      ADD_FAILURE() << to_string(info.error());
      return kNoIncarnation;
    }
    return info->number;
  }
  void append(const store::IncomingBatch& batch) {
    for (;;) {
      auto copy = batch;
      const auto done = store_->append(std::move(copy));
      if (done) return;
      ASSERT_EQ(done.error().code, Code::busy) << to_string(done.error());
      ASSERT_TRUE(store_->flush(20'000));
    }
  }
  void flush() {
    const auto done = store_->flush(20'000);
    ASSERT_TRUE(done) << to_string(done.error());
  }

  TempFolder folder_;
  store::StoreOptions options_;
  RecordingListener listener_;
  std::unique_ptr<store::TraceStore> store_;
};

}  // namespace scope::test
