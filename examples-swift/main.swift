// A cache from Swift, straight through the C ABI.
//
//     swiftc -I ../include -L PREFIX/lib main.swift -o example
//     LD_LIBRARY_PATH=PREFIX/lib ./example redis://localhost:6379
//
// ../include holds cachetory.h and the module map that makes it the module Cachetory and names the library to link.

import Cachetory

#if canImport(Glibc)
import Glibc
#else
import Darwin
#endif

/// A failed call: negative statuses only. That a key is not there is an answer.
struct CacheError: Error, CustomStringConvertible {
    let status: Int32
    let retryable: Bool
    let maybeApplied: Bool
    let message: String

    /// The C array is a tuple here; its bytes are read in place.
    init(_ error: cachetory_error_t) {
        status = error.status
        retryable = error.flags & CACHETORY_ERROR_RETRYABLE != 0
        maybeApplied = error.flags & CACHETORY_ERROR_MAYBE_APPLIED != 0
        message = withUnsafeBytes(of: error.message) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    var description: String { String(cString: cachetory_status_name(status)) + ": " + message }
}

/// A handle is a number, so the struct may be copied freely and used by any task.
struct Cache {
    private let handle: cachetory_t

    init(url: String) throws {
        var handle = cachetory_t()
        try Cache.check { cachetory_open_url(url, &handle, $0) }
        self.handle = handle
    }

    func close() {
        cachetory_close(handle)
    }

    func set(_ key: String, _ value: [UInt8], ttlMilliseconds: Int64 = CACHETORY_NO_EXPIRY) throws {
        try Cache.check { cachetory_set(handle, key, key.utf8.count, value, value.count, ttlMilliseconds, 0, $0) }
    }

    /// nil for a key that is not there; an empty value is not nil.
    func get(_ key: String) throws -> [UInt8]? {
        var value = cachetory_value_t()
        defer { cachetory_value_free(&value) }
        let status = try Cache.check { cachetory_get(handle, key, key.utf8.count, &value, $0) }
        return status == CACHETORY_OK ? Cache.copied(value.data, value.len) : nil
    }

    /// Each key is answered in its place, with nil where it is not there.
    func mget(_ keys: [String]) throws -> [[UInt8]?] {
        // The keys' bytes lie in one array and the items point into it: only within the closure do they stay in place.
        let text = keys.flatMap { Array($0.utf8.map { CChar(bitPattern: $0) }) }
        return try text.withUnsafeBufferPointer { text in
            var at = 0
            let items = keys.map { key -> cachetory_bytes_t in
                defer { at += key.utf8.count }
                return cachetory_bytes_t(data: text.baseAddress.map { $0 + at }, len: key.utf8.count)
            }
            var values = cachetory_values_t()
            defer { cachetory_values_free(&values) }
            try Cache.check { cachetory_mget(handle, items, items.count, &values, $0) }
            return UnsafeBufferPointer(start: values.items, count: values.len).map { item in
                item.data.map { Cache.copied($0, item.len) }
            }
        }
    }

    private static func copied(_ data: UnsafePointer<CChar>, _ length: Int) -> [UInt8] {
        Array(UnsafeRawBufferPointer(start: data, count: length))
    }

    @discardableResult
    private static func check(
        _ call: (UnsafeMutablePointer<cachetory_error_t>) -> cachetory_status_t
    ) throws -> cachetory_status_t {
        var error = cachetory_error_t()
        let status = call(&error)
        if status < 0 {
            throw CacheError(error)
        }
        return status
    }
}

func complain(_ error: Error) {
    fputs("\(error)\n", stderr)
}

func run(url: String) throws {
    let cache = try Cache(url: url)
    defer { cache.close() }

    let minute: Int64 = 60 * 1000
    try cache.set("example:greeting", Array("hello".utf8), ttlMilliseconds: minute)
    try cache.set("example:empty", [], ttlMilliseconds: minute)
    if let greeting = try cache.get("example:greeting") {
        print("get: \(String(decoding: greeting, as: UTF8.self))")
    }

    let keys = ["example:greeting", "example:missing", "example:empty"]
    for (key, value) in zip(keys, try cache.mget(keys)) {
        print("mget: \(key): \(value.map { "\($0.count) bytes" } ?? "not there")")
    }

    // A ttl of 0 is refused.
    do {
        try cache.set("example:greeting", Array("hello".utf8), ttlMilliseconds: 0)
    } catch let error as CacheError {
        print("error: \(error.status), retryable: \(error.retryable)")
        complain(error)
    }
}

let url = CommandLine.arguments.dropFirst().first ?? getenv("CACHETORY_URL").map { String(cString: $0) } ?? "memory://"
do {
    try run(url: url)
} catch {
    complain(error)
    exit(1)
}
