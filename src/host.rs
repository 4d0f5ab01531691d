//! What does the module ask of Envoy? Every host call that it uses, as a trait; and Envoy itself.
//!
//! This is the only file that names `proxy_wasm::hostcalls`. The getters of the SDK's traits are
//! not used: they panic on a status that they do not expect. Of the functions used here
//! [`request_headers`](Host::request_headers), [`request_trailers`](Host::request_trailers),
//! the setters of headers, and [`send_response`](Host::send_response) still do, on a status that
//! Envoy gives only where the map in question does not exist: the roles call each in the callback
//! that promises it.

use core::fmt;
use core::time::Duration;

use medbind_core::time::Timestamp;

/// A header map as the host hands it over: names in lower case, values as they came.
pub type Headers = Vec<(String, Vec<u8>)>;

/// What a host call answers where it does not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// The compare-and-swap number was not the current one.
    CasMismatch,
    /// Any other status of the ABI.
    Status(u32),
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CasMismatch => f.write_str("the value has been changed in between"),
            Self::Status(status) => write!(f, "the host answered with status {status}"),
        }
    }
}

/// Which of a request's header maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestMap {
    /// The headers.
    Headers,
    /// The trailers.
    Trailers,
}

/// How loud a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// For a developer.
    Debug,
    /// For an operator who looks.
    Info,
    /// Something that an operator should mend.
    Warn,
    /// Something that keeps medbind from its work.
    Error,
}

/// What a metric does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A local reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalReply<'a> {
    /// An HTTP answer.
    Http {
        /// The status code (RFC 9110, 15).
        status: u16,
        /// Headers beside the status.
        headers: &'a [(&'a str, &'a str)],
        /// The content.
        body: &'a [u8],
    },
    /// A gRPC answer, trailers only.
    Grpc {
        /// The gRPC status.
        status: u8,
        /// `grpc-message`.
        message: &'a str,
        /// Headers beside the status.
        headers: &'a [(&'a str, &'a str)],
    },
}

/// An answer to a call that the module made, as far as the host has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallAnswer {
    /// The status code; `None` where no whole answer came (cut short, or larger than the host takes).
    pub status: Option<u16>,
    /// `retry-after`, where it is a number of seconds (RFC 9110, 10.2.3).
    pub retry_after: Option<Duration>,
    /// The content; empty where there is none.
    pub body: Vec<u8>,
}

/// The host calls. Every status is data: nothing here panics, and an absent value is `Ok(None)`.
pub trait Host {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// The wall clock's nanoseconds since the Unix epoch, as far as they fit: nothing to tell the
    /// time by, but a number that is hard to guess.
    fn nanoseconds(&self) -> u64;
    /// Writes one line to the proxy's log.
    fn log(&self, level: LogLevel, line: &str);
    /// The plug-in's configuration, in `on_configure`.
    fn plugin_configuration(&self) -> Result<Option<Vec<u8>>, HostError>;
    /// Asks for a tick every `period`.
    fn set_tick_period(&self, period: Duration) -> Result<(), HostError>;
    /// The headers of the request of this context.
    fn request_headers(&self) -> Result<Headers, HostError>;
    /// The trailers of the request of this context.
    fn request_trailers(&self) -> Result<Headers, HostError>;
    /// Puts `value` in the place of all values of `name`.
    fn set_header(&self, map: RequestMap, name: &str, value: &[u8]) -> Result<(), HostError>;
    /// Takes all values of `name` away.
    fn remove_header(&self, map: RequestMap, name: &str) -> Result<(), HostError>;
    /// A property of the stream of this context.
    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError>;
    /// Writes filter state `wasm.<name>` of the stream of this context.
    fn set_filter_state(&self, name: &str, value: &str) -> Result<(), HostError>;
    /// Reads shared data with its compare-and-swap number.
    fn shared_data(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError>;
    /// Writes shared data; with `cas`, only where that is still its number.
    fn set_shared_data(&self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), HostError>;
    /// Sends `GET path` to a cluster; the answer comes to the context that is active now.
    fn get(
        &self,
        cluster: &str,
        authority: &str,
        path: &str,
        timeout: Duration,
    ) -> Result<u32, HostError>;
    /// The answer to a call, in the callback that announced it with these two numbers.
    fn call_answer(&self, headers: usize, body: usize) -> CallAnswer;
    /// Makes the calls that follow act on another context.
    fn set_effective_context(&self, context: u32) -> Result<(), HostError>;
    /// Lets a paused request go on.
    fn resume_request(&self) -> Result<(), HostError>;
    /// Resets the stream of this context.
    fn reset_stream(&self) -> Result<(), HostError>;
    /// Answers the request of this context here.
    fn send_response(&self, reply: &LocalReply<'_>) -> Result<(), HostError>;
    /// Makes a metric known; gives its number.
    fn define_metric(&self, kind: MetricKind, name: &str) -> Result<u32, HostError>;
    /// Counts up.
    fn increment_metric(&self, metric: u32, by: u32) -> Result<(), HostError>;
    /// Sets a gauge.
    fn record_metric(&self, metric: u32, value: u64) -> Result<(), HostError>;
    /// Calls a function that the host offers by name.
    fn foreign_function(&self, name: &str, argument: &[u8]) -> Result<Vec<u8>, HostError>;
}

#[cfg(target_arch = "wasm32")]
mod envoy {
    use proxy_wasm::hostcalls;
    use proxy_wasm::types::{BufferType, GrpcStatusCode, MapType, MetricType, Status};

    use super::{
        CallAnswer, Duration, Headers, Host, HostError, LocalReply, LogLevel, MetricKind,
        RequestMap, Timestamp,
    };

    /// Envoy, as the module's callbacks find it.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Envoy;

    /// The longest answer that is read from a call, in octets: above what any page of the feed holds.
    const MAX_ANSWER: usize = 8 << 20;

    #[expect(clippy::as_conversions, reason = "the enumeration is the ABI's number")]
    fn status(status: Status) -> HostError {
        if status == Status::CasMismatch {
            HostError::CasMismatch
        } else {
            HostError::Status(status as u32)
        }
    }

    const fn map_type(map: RequestMap) -> MapType {
        match map {
            RequestMap::Headers => MapType::HttpRequestHeaders,
            RequestMap::Trailers => MapType::HttpRequestTrailers,
        }
    }

    impl Host for Envoy {
        fn now(&self) -> Timestamp {
            let millis = hostcalls::get_current_time()
                .ok()
                .and_then(|now| now.duration_since(std::time::UNIX_EPOCH).ok())
                .and_then(|since| i64::try_from(since.as_millis()).ok());
            // Fail closed: without a clock everything has expired.
            millis.map_or(Timestamp::MAX, Timestamp::from_unix_millis)
        }

        fn nanoseconds(&self) -> u64 {
            let since = hostcalls::get_current_time()
                .ok()
                .and_then(|now| now.duration_since(std::time::UNIX_EPOCH).ok());
            since
                .and_then(|since| u64::try_from(since.as_nanos()).ok())
                .unwrap_or(0)
        }

        fn log(&self, level: LogLevel, line: &str) {
            let level = match level {
                LogLevel::Debug => proxy_wasm::types::LogLevel::Debug,
                LogLevel::Info => proxy_wasm::types::LogLevel::Info,
                LogLevel::Warn => proxy_wasm::types::LogLevel::Warn,
                LogLevel::Error => proxy_wasm::types::LogLevel::Error,
            };
            let _ = hostcalls::log(level, line);
        }

        fn plugin_configuration(&self) -> Result<Option<Vec<u8>>, HostError> {
            hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX).map_err(status)
        }

        fn set_tick_period(&self, period: Duration) -> Result<(), HostError> {
            hostcalls::set_tick_period(period).map_err(status)
        }

        fn request_headers(&self) -> Result<Headers, HostError> {
            hostcalls::get_map_bytes(MapType::HttpRequestHeaders).map_err(status)
        }

        fn request_trailers(&self) -> Result<Headers, HostError> {
            hostcalls::get_map_bytes(MapType::HttpRequestTrailers).map_err(status)
        }

        fn set_header(&self, map: RequestMap, name: &str, value: &[u8]) -> Result<(), HostError> {
            hostcalls::set_map_value_bytes(map_type(map), name, Some(value)).map_err(status)
        }

        fn remove_header(&self, map: RequestMap, name: &str) -> Result<(), HostError> {
            hostcalls::remove_map_value(map_type(map), name).map_err(status)
        }

        fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
            hostcalls::get_property(path.to_vec()).map_err(status)
        }

        fn set_filter_state(&self, name: &str, value: &str) -> Result<(), HostError> {
            hostcalls::set_property(vec![name], Some(value.as_bytes())).map_err(status)
        }

        fn shared_data(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
            let (value, cas) = hostcalls::get_shared_data(key).map_err(status)?;
            Ok(value.map(|value| (value, cas.unwrap_or(0))))
        }

        fn set_shared_data(
            &self,
            key: &str,
            value: &[u8],
            cas: Option<u32>,
        ) -> Result<(), HostError> {
            hostcalls::set_shared_data(key, Some(value), cas).map_err(status)
        }

        fn get(
            &self,
            cluster: &str,
            authority: &str,
            path: &str,
            timeout: Duration,
        ) -> Result<u32, HostError> {
            let headers = vec![
                (":method", "GET"),
                (":path", path),
                (":authority", authority),
                (":scheme", "https"),
                ("accept", "application/x-ndjson, application/json"),
            ];
            hostcalls::dispatch_http_call(cluster, headers, None, vec![], timeout).map_err(status)
        }

        fn call_answer(&self, headers: usize, body: usize) -> CallAnswer {
            // An answer without a header is none, and the header getter has nothing to read.
            if headers == 0 {
                return CallAnswer::default();
            }
            let header = |name: &str| {
                let value = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, name);
                String::from_utf8(value.ok().flatten()?).ok()
            };
            let status = header(":status").and_then(|value| value.parse().ok());
            let retry_after = header("retry-after")
                .and_then(|value| value.parse().ok())
                .map(Duration::from_secs);
            let body = if body == 0 || body > MAX_ANSWER {
                None
            } else {
                hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body)
                    .ok()
                    .flatten()
            };
            CallAnswer {
                status,
                retry_after,
                body: body.unwrap_or_default(),
            }
        }

        fn set_effective_context(&self, context: u32) -> Result<(), HostError> {
            hostcalls::set_effective_context(context).map_err(status)
        }

        fn resume_request(&self) -> Result<(), HostError> {
            hostcalls::resume_http_request().map_err(status)
        }

        fn reset_stream(&self) -> Result<(), HostError> {
            hostcalls::reset_http_request().map_err(status)
        }

        fn send_response(&self, reply: &LocalReply<'_>) -> Result<(), HostError> {
            match *reply {
                LocalReply::Http {
                    status: code,
                    headers,
                    body,
                } => hostcalls::send_http_response(u32::from(code), headers.to_vec(), Some(body))
                    .map_err(status),
                LocalReply::Grpc {
                    status: code,
                    message,
                    headers,
                } => {
                    let code = match code {
                        16 => GrpcStatusCode::Unauthenticated,
                        7 => GrpcStatusCode::PermissionDenied,
                        14 => GrpcStatusCode::Unavailable,
                        _ => GrpcStatusCode::Internal,
                    };
                    let headers = headers
                        .iter()
                        .map(|(name, value)| (*name, value.as_bytes()))
                        .collect();
                    hostcalls::send_grpc_response(code, Some(message), headers).map_err(status)
                }
            }
        }

        fn define_metric(&self, kind: MetricKind, name: &str) -> Result<u32, HostError> {
            let kind = match kind {
                MetricKind::Counter => MetricType::Counter,
                MetricKind::Gauge => MetricType::Gauge,
            };
            hostcalls::define_metric(kind, name).map_err(status)
        }

        fn increment_metric(&self, metric: u32, by: u32) -> Result<(), HostError> {
            hostcalls::increment_metric(metric, i64::from(by)).map_err(status)
        }

        fn record_metric(&self, metric: u32, value: u64) -> Result<(), HostError> {
            hostcalls::record_metric(metric, value).map_err(status)
        }

        fn foreign_function(&self, name: &str, argument: &[u8]) -> Result<Vec<u8>, HostError> {
            hostcalls::call_foreign_function(name, Some(argument))
                .map(Option::unwrap_or_default)
                .map_err(status)
        }
    }
}

#[cfg(target_arch = "wasm32")]
pub use envoy::Envoy;
