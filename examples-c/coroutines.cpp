/* Coroutines (C++20): co_await cache.get("key").
 *
 *     coroutines [URL]
 *
 * All that is awaited is in flight at the same time, on one thread. The first part is what a header of yours could
 * hold: an awaited call enters a table and is submitted with its place there as the tag; the queue's completions look
 * up who waits, and resume it. Not for several threads as it is: one queue and its coroutines to each thread.
 */
#include <cachetory.h>

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cachetory {

/* A failed call; that a key is not there is an answer. */
struct Error : std::runtime_error {
    Error(cachetory_status_t status, std::uint32_t flags, const char *message)
        : std::runtime_error(message), status(status), flags(flags) {}

    cachetory_status_t status;
    std::uint32_t flags;
};

/* Bytes where the library left them. They outlive the completion, the queue and the cache. */
class Value {
public:
    explicit Value(cachetory_value_t value) noexcept : value_(value) {}
    Value(Value &&other) noexcept : value_(std::exchange(other.value_, {})) {}
    Value &operator=(Value other) noexcept { return std::swap(value_, other.value_), *this; }
    ~Value() { cachetory_value_free(&value_); }

    std::string_view view() const noexcept { return {value_.data, value_.len}; }

private:
    cachetory_value_t value_;
};

class Call;

/* A completion queue, and who waits for its completions. */
class Queue {
public:
    Queue()
    {
        cachetory_error_t error;
        if (cachetory_queue_open(&handle_, &error) < 0)
            throw Error(error.status, error.flags, error.message);
    }
    Queue(const Queue &) = delete;
    Queue &operator=(const Queue &) = delete;
    ~Queue() { cachetory_queue_close(handle_); } /* what is still outstanding is cancelled */

    /* Waits for completions and resumes whoever waits for them. In an event loop of yours: when cachetory_queue_fd is
     * readable, with a timeout of 0 and until none comes. */
    void turn();

private:
    friend class Call;

    /* A coroutine may be destroyed while it waits, and another call take its place before the completion comes: so a
     * tag is an index and the generation that it is meant for, and no pointer. */
    struct Place {
        Call *call = nullptr;
        std::uint32_t generation = 0;
    };

    std::uint64_t enter(Call *call);
    Call *find(std::uint64_t tag) const noexcept;
    Call *leave(std::uint64_t tag) noexcept;

    cachetory_queue_t handle_{};
    std::vector<Place> places_;
    std::vector<std::uint32_t> free_;
    std::vector<std::uint64_t> busy_; /* refused because too many were outstanding; to be submitted again */
};

/* What co_await waits for. The key and the value that it looks at live at least as long as the expression. */
class Call {
public:
    explicit Call(Queue &queue) : queue_(queue) {}
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;

    bool await_ready() const noexcept { return false; }

    bool await_suspend(std::coroutine_handle<> waiting)
    {
        waiting_ = waiting;
        tag_ = queue_.enter(this);
        return start();
    }

protected:
    virtual cachetory_status_t submit(cachetory_queue_t queue, std::uint64_t tag, cachetory_error_t *error) = 0;

    virtual ~Call()
    {
        /* Still in the table: the coroutine is destroyed in the middle of it. The completion will find nobody. */
        if (queue_.leave(tag_) != nullptr)
            cachetory_queue_cancel(queue_.handle_, tag_, nullptr);
        cachetory_completion_free(&completion_);
    }

    void check() const
    {
        if (refused_)
            throw *refused_;
        if (completion_.status < 0)
            throw Error(completion_.status, completion_.flags, completion_.message);
    }

    cachetory_completion_t completion_{};

private:
    friend class Queue;

    /* Whether there is something to wait for. A submission that fails never completes. */
    bool start()
    {
        cachetory_error_t error;
        if (submit(queue_.handle_, tag_, &error) >= 0)
            return true;
        if (error.status == CACHETORY_ERR_BUSY) {
            queue_.busy_.push_back(tag_);
            return true;
        }
        refused_.emplace(error.status, error.flags, error.message);
        queue_.leave(tag_);
        return false;
    }

    Queue &queue_;
    std::uint64_t tag_ = UINT64_MAX; /* no place has it */
    std::coroutine_handle<> waiting_;
    std::optional<Error> refused_;
};

inline std::uint64_t Queue::enter(Call *call)
{
    if (free_.empty()) {
        places_.emplace_back();
        free_.reserve(places_.size());
        free_.push_back(static_cast<std::uint32_t>(places_.size() - 1));
    }
    std::uint32_t index = free_.back();
    free_.pop_back();
    places_[index].call = call;
    return std::uint64_t{places_[index].generation} << 32 | index;
}

inline Call *Queue::find(std::uint64_t tag) const noexcept
{
    std::size_t index = tag & UINT32_MAX;
    return index < places_.size() && places_[index].generation == tag >> 32 ? places_[index].call : nullptr;
}

inline Call *Queue::leave(std::uint64_t tag) noexcept
{
    Call *call = find(tag);
    if (call != nullptr) {
        Place &place = places_[tag & UINT32_MAX];
        place.call = nullptr;
        place.generation++;
        free_.push_back(static_cast<std::uint32_t>(tag & UINT32_MAX)); /* there is room: see enter */
    }
    return call;
}

inline void Queue::turn()
{
    constexpr std::int64_t a_while = 10; /* until others, who share the cache, may have made room */
    cachetory_completion_t completions[64];
    std::size_t count;
    cachetory_error_t error;
    const std::int64_t timeout_ms = busy_.empty() ? CACHETORY_NO_EXPIRY : a_while;
    if (cachetory_queue_wait(handle_, completions, 64, timeout_ms, &count, &error) < 0)
        throw Error(error.status, error.flags, error.message);
    for (std::size_t i = 0; i < count; i++) {
        if (Call *call = leave(completions[i].tag)) {
            call->completion_ = completions[i]; /* the call's from here on, which frees it */
            call->waiting_.resume();
        } else {
            cachetory_completion_free(&completions[i]);
        }
    }
    for (std::uint64_t tag : std::exchange(busy_, {})) {
        Call *call = find(tag);
        if (call != nullptr && !call->start())
            call->waiting_.resume();
    }
}

class Cache {
public:
    Cache(const char *url, Queue &queue) : queue_(queue)
    {
        cachetory_error_t error;
        if (cachetory_open_url(url, &handle_, &error) < 0)
            throw Error(error.status, error.flags, error.message);
    }
    Cache(const Cache &) = delete;
    Cache &operator=(const Cache &) = delete;
    ~Cache() { cachetory_close(handle_); }

    struct Get final : Call {
        Get(const Cache &cache, std::string_view key) : Call(cache.queue_), cache(cache.handle_), key(key) {}

        cachetory_status_t submit(cachetory_queue_t queue, std::uint64_t tag, cachetory_error_t *error) override
        {
            return cachetory_get_async(cache, queue, tag, key.data(), key.size(), error);
        }

        std::optional<Value> await_resume()
        {
            check();
            if (completion_.status == CACHETORY_NOT_FOUND)
                return std::nullopt;
            /* Emptied there, the value is not freed with the completion. */
            return std::optional<Value>(std::in_place, std::exchange(completion_.value, {}));
        }

        cachetory_t cache;
        std::string_view key;
    };

    struct Set final : Call {
        Set(const Cache &cache, std::string_view key, std::string_view value, std::chrono::milliseconds ttl)
            : Call(cache.queue_), cache(cache.handle_), key(key), value(value), ttl(ttl) {}

        cachetory_status_t submit(cachetory_queue_t queue, std::uint64_t tag, cachetory_error_t *error) override
        {
            return cachetory_set_async(cache, queue, tag, key.data(), key.size(), value.data(), value.size(),
                                       ttl.count(), 0, error);
        }

        void await_resume() const { check(); }

        cachetory_t cache;
        std::string_view key, value;
        std::chrono::milliseconds ttl;
    };

    struct Delete final : Call {
        Delete(const Cache &cache, std::string_view key) : Call(cache.queue_), cache(cache.handle_), key(key) {}

        cachetory_status_t submit(cachetory_queue_t queue, std::uint64_t tag, cachetory_error_t *error) override
        {
            return cachetory_delete_async(cache, queue, tag, key.data(), key.size(), error);
        }

        /* Whether it was there. */
        bool await_resume() const
        {
            check();
            return completion_.status == CACHETORY_OK;
        }

        cachetory_t cache;
        std::string_view key;
    };

    Get get(std::string_view key) const { return {*this, key}; }
    Set set(std::string_view key, std::string_view value, std::chrono::milliseconds ttl) const
    {
        return {*this, key, value, ttl};
    }
    Delete remove(std::string_view key) const { return {*this, key}; }

private:
    Queue &queue_;
    cachetory_t handle_{};
};

/* A coroutine that begins at once and is owned by whoever called it: destroying it gives it up, wherever it waits. */
class Task {
public:
    struct promise_type {
        Task get_return_object() { return Task(std::coroutine_handle<promise_type>::from_promise(*this)); }
        std::suspend_never initial_suspend() const noexcept { return {}; }
        std::suspend_always final_suspend() const noexcept { return {}; }
        void return_void() const noexcept {}
        void unhandled_exception() noexcept { exception = std::current_exception(); }

        std::exception_ptr exception;
    };

    Task(Task &&other) noexcept : handle_(std::exchange(other.handle_, {})) {}
    Task &operator=(Task other) noexcept { return std::swap(handle_, other.handle_), *this; }
    ~Task()
    {
        if (handle_)
            handle_.destroy();
    }

    /* Turns the queue until the coroutine has come to its end. Others go on meanwhile. */
    void wait(Queue &queue) const
    {
        while (!handle_.done())
            queue.turn();
        if (handle_.promise().exception)
            std::rethrow_exception(handle_.promise().exception);
    }

private:
    explicit Task(std::coroutine_handle<promise_type> handle) noexcept : handle_(handle) {}

    std::coroutine_handle<promise_type> handle_;
};

} // namespace cachetory

namespace {

using cachetory::Cache;
using cachetory::Queue;
using cachetory::Task;
using namespace std::chrono_literals;

void show(const char *what, const std::optional<cachetory::Value> &value)
{
    std::string text(value ? value->view() : "not there");
    std::printf("%s: %s\n", what, text.c_str());
}

Task one_after_the_other(const Cache &cache)
{
    co_await cache.set("example:greeting", "hello", 1min);
    show("greeting", co_await cache.get("example:greeting"));
    bool was_there = co_await cache.remove("example:greeting");
    std::printf("removed: %s\n", was_there ? "yes" : "no");
    show("greeting", co_await cache.get("example:greeting"));
    try {
        co_await cache.set("example:greeting", "hello", 0min);
    } catch (const cachetory::Error &error) {
        std::printf("a ttl of 0: %s\n", cachetory_status_name(error.status));
    }
}

Task round_trip(const Cache &cache, int number, int &correct)
{
    std::string text = "value " + std::to_string(number);
    co_await cache.set("example:coroutines:" + std::to_string(number), text, 1min);
    auto value = co_await cache.get("example:coroutines:" + std::to_string(number));
    correct += value && value->view() == text;
    co_await cache.remove("example:coroutines:" + std::to_string(number));
}

Task look(const Cache &cache, bool &looked)
{
    co_await cache.get("example:coroutines:0");
    looked = true;
}

void run(const char *url)
{
    Queue queue;
    Cache cache(url, queue);
    one_after_the_other(cache).wait(queue);

    int correct = 0;
    std::vector<Task> tasks;
    for (int number = 0; number < 1000; number++)
        tasks.push_back(round_trip(cache, number, correct));
    for (Task &task : tasks)
        task.wait(queue);
    std::printf("1000 coroutines on one thread, %d values written and read back\n", correct);

    /* One is given up while it waits. Its completion still comes, when another waits in its place, and finds nobody. */
    bool looked = false;
    look(cache, looked);
    round_trip(cache, 0, correct).wait(queue);
    std::printf("given up: %s, finished: %d\n", looked ? "no" : "yes", correct);
}

} // namespace

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : std::getenv("CACHETORY_URL");
    try {
        run(url != nullptr ? url : "memory://");
    } catch (const std::exception &error) {
        std::fprintf(stderr, "coroutines: %s\n", error.what());
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
