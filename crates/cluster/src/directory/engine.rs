//! The connection to the engine: one at a time, to the node that has the key.
//!
//! ```text
//!   eval ─► connected? ── no ──► resolve: the host │ the master that a sentinel names │ any host of Redis Cluster ─► connect ─┐
//!             │ yes                                                                                                          │
//!             ▼ ◄────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//!           call ──► reply
//!             ├────► MOVED or ASK: connect to that node, once for each call
//!             └────► any other error: close, so that the next call resolves again
//! ```
//!
//! The client of the `redis` crate for Sentinel and Redis Cluster is not used: with one key it would bring a table of slots and its own
//! retries, and no time limit over resolving, connecting and calling.

use std::fmt;
use std::time::Duration;

use futures_util::future::select_ok;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, ServerErrorKind, Value, cmd, pipe,
};
use tokio::time::timeout;

use crate::url::{Credential, Endpoint, EngineUrl, Topology};

/// Why a call failed, as a sentence for the log.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No connection within the time limit.
    #[error("cannot connect to the engine within {0:?}")]
    ConnectTimeout(Duration),
    /// No reply within the time limit.
    #[error("the engine does not reply within {0:?}")]
    CallTimeout(Duration),
    /// No connection.
    #[error("cannot connect to the engine: {0}")]
    Connect(RedisError),
    /// An error reply, or the connection ended.
    #[error("the engine refuses: {0}")]
    Call(RedisError),
    /// The sentinels know no such service.
    #[error("no sentinel knows a master of the service {0:?}: it must be the name in sentinel.conf")]
    NoMaster(String),
    /// `redis://` leads to Redis Cluster.
    #[error("the engine is a Redis Cluster: write redis+cluster:// or rediss+cluster:// for it")]
    IsCluster,
    /// The engine's writes fail because it is a replica.
    #[error("the engine is a replica: give the address of the master, or redis+sentinel:// that finds it")]
    IsReplica,
    /// The engine needs a password, and the URL has none.
    #[error("the engine asks for a password: write redis://:PASSWORD@HOST or redis://USER:PASSWORD@HOST")]
    NoPassword,
    /// A reply that no script of this release returns.
    #[error("the engine returns what the script does not: is something between that changes replies?")]
    Reply,
}

/// A connection to the engine, or the way to one.
pub(super) struct Engine {
    url: EngineUrl,
    limit: Duration,
    connection: Option<MultiplexedConnection>,
    /// The engine's `maxmemory_policy`, asked for once for each connection.
    eviction: Option<Eviction>,
}

#[derive(Debug)]
struct Eviction(Option<String>);

impl Engine {
    pub(super) fn new(url: EngineUrl, limit: Duration) -> Self {
        Self { url, limit, connection: None, eviction: None }
    }

    /// Runs a script on the one key.
    pub(super) async fn eval(
        &mut self,
        script: &str,
        key: &str,
        arguments: &[String],
    ) -> Result<Value, EngineError> {
        // EVAL and not EVALSHA: after a restart or failover the engine does not know the script, and it is 3 KiB a second.
        let mut eval = cmd("EVAL");
        eval.arg(script).arg(1).arg(key).arg(arguments);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut result = self.call(eval.query_async::<Value>(&mut connection)).await;
        if let Some(redirection) = self.redirection(&result)? {
            connection = self.connect_to(&redirection.to).await?;
            result = if redirection.asking {
                let mut asking = pipe();
                asking.cmd("ASKING").ignore().add_command(eval);
                let replies = self.call(asking.query_async::<Vec<Value>>(&mut connection)).await;
                replies.and_then(|replies| replies.into_iter().next().ok_or(EngineError::Reply))
            } else {
                self.call(eval.query_async(&mut connection)).await
            };
        }
        let value = result.map_err(|error| self.explain(error))?;
        self.connection = Some(connection);
        Ok(value)
    }

    /// Returns the engine's `maxmemory_policy`, or `None` if it does not say so.
    pub(super) async fn eviction(&mut self) -> Option<String> {
        if self.eviction.is_none()
            && let Some(mut connection) = self.connection.clone()
        {
            let mut info = cmd("INFO");
            info.arg("memory");
            let info = self.call(info.query_async::<String>(&mut connection)).await.ok();
            let policy = info.and_then(|info| {
                info.lines().find_map(|line| {
                    line.strip_prefix("maxmemory_policy:").map(|policy| policy.trim().to_owned())
                })
            });
            self.eviction = Some(Eviction(policy));
        }
        self.eviction.as_ref().and_then(|Eviction(policy)| policy.clone())
    }

    /// Resolves and connects.
    async fn connect(&mut self) -> Result<MultiplexedConnection, EngineError> {
        self.eviction = None;
        let connecting = async {
            match &self.url.topology {
                Topology::Single | Topology::Cluster => {
                    self.first(|host| self.open(host, self.credential())).await
                }
                Topology::Sentinel(service) => {
                    let master = self.first(|sentinel| self.ask_sentinel(sentinel, service)).await?;
                    self.open(&master, self.credential()).await
                }
            }
        };
        timeout(self.limit, connecting).await.unwrap_or(Err(EngineError::ConnectTimeout(self.limit)))
    }

    async fn connect_to(&self, endpoint: &Endpoint) -> Result<MultiplexedConnection, EngineError> {
        let connecting = self.open(endpoint, self.credential());
        timeout(self.limit, connecting).await.unwrap_or(Err(EngineError::ConnectTimeout(self.limit)))
    }

    /// Tries all hosts at once, so that one that does not answer costs nothing, and returns the first success.
    async fn first<'a, T, F: Future<Output = Result<T, EngineError>>>(
        &'a self,
        attempt: impl Fn(&'a Endpoint) -> F,
    ) -> Result<T, EngineError> {
        let attempts = self.url.hosts.iter().map(|host| Box::pin(attempt(host)));
        select_ok(attempts).await.map(|(success, _)| success)
    }

    /// Returns the master that a sentinel names.
    async fn ask_sentinel(&self, sentinel: &Endpoint, service: &str) -> Result<Endpoint, EngineError> {
        let mut question = cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        let mut connection = self.open_sentinel(sentinel, None).await?;
        let mut answer = question.query_async::<Option<(String, u16)>>(&mut connection).await;
        // Sentinels with a password mostly have that of the engine.
        if answer.as_ref().is_err_and(|error| error.code() == Some("NOAUTH")) {
            connection = self.open_sentinel(sentinel, self.credential()).await?;
            answer = question.query_async(&mut connection).await;
        }
        let master = answer.map_err(EngineError::Connect)?;
        master
            .map(|(host, port)| Endpoint { host, port })
            .ok_or_else(|| EngineError::NoMaster(service.to_owned()))
    }

    async fn open_sentinel(
        &self,
        sentinel: &Endpoint,
        credential: Option<&Credential>,
    ) -> Result<MultiplexedConnection, EngineError> {
        self.open_db(sentinel, credential, 0).await
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        credential: Option<&Credential>,
    ) -> Result<MultiplexedConnection, EngineError> {
        self.open_db(endpoint, credential, self.url.db).await
    }

    async fn open_db(
        &self,
        endpoint: &Endpoint,
        credential: Option<&Credential>,
        db: u16,
    ) -> Result<MultiplexedConnection, EngineError> {
        let Endpoint { host, port } = endpoint.clone();
        let address = if self.url.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let mut settings = RedisConnectionInfo::default().set_db(db.into()).set_skip_set_lib_name();
        if let Some(Credential { user, password }) = credential {
            settings = settings.set_password(password.as_str());
            if let Some(user) = user {
                settings = settings.set_username(user);
            }
        }
        // The time limits are this module's, over more than one step.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let info = address.into_connection_info().map_err(EngineError::Connect)?.set_redis_settings(settings);
        let client = Client::open(info).map_err(EngineError::Connect)?;
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(EngineError::Connect)
    }

    fn credential(&self) -> Option<&Credential> {
        self.url.credential.as_ref()
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, RedisError>>) -> Result<T, EngineError> {
        let result = timeout(self.limit, call).await.map_err(|_| EngineError::CallTimeout(self.limit))?;
        result.map_err(EngineError::Call)
    }

    /// Returns where Redis Cluster has the key.
    fn redirection(&self, result: &Result<Value, EngineError>) -> Result<Option<Redirection>, EngineError> {
        let Err(EngineError::Call(error)) = result else { return Ok(None) };
        let Some((address, _slot)) = error.redirect_node() else { return Ok(None) };
        if self.url.topology != Topology::Cluster {
            return Err(EngineError::IsCluster);
        }
        // An IPv6 address stands there without brackets.
        let (host, port) = address.rsplit_once(':').ok_or(EngineError::Reply)?;
        let port = port.parse().map_err(|_| EngineError::Reply)?;
        let asking = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
        Ok(Some(Redirection {
            to: Endpoint { host: host.trim_matches(['[', ']']).to_owned(), port },
            asking,
        }))
    }

    /// Replaces an error whose cure the engine does not name.
    fn explain(&self, error: EngineError) -> EngineError {
        let EngineError::Call(cause) = &error else { return error };
        let is_replica = cause.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
        // Redis does not even parse a long command before it has a password.
        let is_locked = cause.code() == Some("NOAUTH") || cause.to_string().contains("unauthenticated");
        match self.url.topology {
            Topology::Single if is_replica => EngineError::IsReplica,
            _ if is_locked && self.url.credential.is_none() => EngineError::NoPassword,
            _ => error,
        }
    }
}

struct Redirection {
    to: Endpoint,
    asking: bool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("url", &self.url)
            .field("connected", &self.connection.is_some())
            .finish_non_exhaustive()
    }
}
