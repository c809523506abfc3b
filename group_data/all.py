"""Every knob of Redkeep, with its default, its unit and the reason for it.

Change a value here for all hosts, or in group_data/<group>.py for the hosts of one group: there, only the differences.
A knob that is not listed here is an error before any host is touched.
"""

# --- Which server -----------------------------------------------------------------------------------------------

# Names the folder secrets/<environment>. Empty: the inventory's file name (inventories/single.py -> "single").
environment: str = ""

# "redis" (package redis-server) or "valkey" (package valkey-server, Debian 13 and later).
redis_engine: str = "redis"

# "native" (the distribution's package and its service) or "docker" (a container that nothing but the app's network and
# this host's app can reach). Docker serves the host's own app alone: no port is published.
redis_runtime: str = "native"

# --- The container (redis_runtime "docker") ----------------------------------------------------------------------

# Where the server's image comes from. Empty: built on the host from the distribution's own files. With a digest
# ("registry.example/redis@sha256:..."): pulled by the host, with root's `docker login` there. A path on the operator's machine
# ("images/redis.tar", made by `docker save`): loaded, for hosts that can pull nothing.
container_image: str = ""

# Memory the container may take, with a unit ("512mb"). Empty: redis_maxmemory and half as much again.
container_memory: str = ""

# Processors it may use, for instance "1.5". Empty: all but one, two at most: Redis works with one.
container_cpus: str = ""

# Its network (CIDR, /29 or wider). Empty: the first that is free in 10.213.0.0/16 or 192.168.213.0/24, kept since.
container_subnet: str = ""

# The network of the API and the dashboard, chosen the same way when empty; Redis is not on it.
container_edge_subnet: str = ""

# "hardened": live-restore, no userland proxy, bounded logs, no traffic between containers of the default bridge, no new
# privileges, written to /etc/docker/daemon.json beside what stands there. "as-found": the engine is not touched.
docker_engine: str = "hardened"

# --- Network ----------------------------------------------------------------------------------------------------

# TCP port of TLS. There is no plaintext port. 6380, so that an old client on 6379 is refused, not confused.
redis_tls_port: int = 6380

# The name or address by which app hosts reach this Redis. Empty: the loopback address when Redis and the app share
# their only host, the inventory's name of the Redis host otherwise.
redis_address: str = ""

# Addresses Redis listens on. Empty: the loopback addresses and, when app hosts are elsewhere, redis_address.
redis_bind: list[str] = []

# Addresses or networks (CIDR) that may connect beside the app hosts of the inventory.
allowed_clients: list[str] = []

# The address by which an app host reaches Redis, for the allow-list. Empty: the inventory's name of the app host.
app_address: str = ""

# Drop packets to Redis' port from everyone else, in a table of our own (nftables). Not needed, and not made, while
# Redis listens on the loopback addresses alone. With redis_runtime "docker" it isolates the containers and cannot be off.
firewall: bool = True

# --- TLS --------------------------------------------------------------------------------------------------------

# "1.3", or "1.2" for clients that cannot do better (still forward secrecy and AEAD only).
tls_minimum_version: str = "1.3"

# "required": a client shows a certificate of our CA before anything else. "optional": only the password protects access.
tls_client_certificates: str = "required"

# More names or addresses for the server's certificate, beside those Redkeep knows (host name, bind addresses).
tls_names: list[str] = []

# Days before expiry at which the next deploy renews a certificate (they are valid for 89 days).
tls_renew_days: int = 30

# Days before expiry at which the daily check on the Redis host raises the alarm in the journal.
tls_alarm_days: int = 14

# --- Limits -----------------------------------------------------------------------------------------------------

# Memory for data: a share of the host's memory ("50%") or bytes with a unit ("512mb", "2gb"). The rest is for the
# system, client buffers and fragmentation (Redis' documentation advises to leave a good part free).
redis_maxmemory: str = "50%"

# What goes when memory is full. "allkeys-lru" suits a cache; "noeviction" a store.
redis_maxmemory_policy: str = "allkeys-lru"

# Connections at once. One process of our cache uses at most two.
redis_maxclients: int = 1000

# Seconds after which an idle connection is closed (0: never). Clients reconnect by themselves.
redis_idle_timeout: int = 900

# Seconds between TCP keepalive probes: a peer that vanished is noticed after about three of them.
redis_tcp_keepalive: int = 60

# Largest single value, in bytes. Redis' own limit is 512 MB: far too much for one client of a shared cache.
redis_max_value_bytes: int = 16777216

# Share of memory that all clients' buffers may take together before the greediest is disconnected.
redis_maxmemory_clients: str = "10%"

# Number of databases. ACLs do not separate databases, so one is honest.
redis_databases: int = 1

# --- Data and logs ----------------------------------------------------------------------------------------------

# "off" (a pure cache: nothing on disk), "rdb" (snapshots) or "aof" (append-only file, fsync each second).
redis_persistence: str = "off"

# debug, verbose, notice or warning.
redis_log_level: str = "notice"

# Weeks of rotated logs to keep.
redis_log_weeks: int = 12

# --- Host -------------------------------------------------------------------------------------------------------

# Kernel settings, written to /etc/sysctl.d and set live. overcommit_memory 1: a background save must not fail for
# lack of memory it will not use. somaxconn: at least Redis' own backlog of 511.
kernel_settings: dict[str, int] = {"vm.overcommit_memory": 1, "net.core.somaxconn": 1024}

# Transparent huge pages: "never" or "madvise". Redis' documentation asks for it: latency and memory at a fork.
transparent_hugepages: str = "never"

# Preflight refuses a host with less memory than this, in MiB.
minimum_memory_mib: int = 200

# --- Application ------------------------------------------------------------------------------------------------

# Group that may read the environment file and the client key on app hosts (made when missing).
app_group: str = "redkeep"

# Existing users to put into that group: the users your service runs as.
app_users: list[str] = []

# Where app hosts get the package's dependencies: "index" (the host's own pip configuration) or "wheelhouse" (the
# operator downloads the locked wheels and the deploy carries them: hosts without internet access).
package_source: str = "index"

# Separates tenants that share one Redis: part of every key and of every sealed value.
cache_namespace: str = ""

# Compression of values before they are sealed: "none", "lz4" (fast) or "zstd" (half the memory for twice the time).
cache_compression: str = "lz4"

# Let apps keep what they read in memory, sealed, until the server says that it has changed (CLIENT TRACKING). Faster by
# far where entries are read again and again; off, because the right to ask for it (client|tracking) also lets whoever
# holds the app's credentials hear the names of all keys that change in this Redis, other tenants' too.
cache_tracking: bool = False

# --- The API of the security status ------------------------------------------------------------------------------

# Serve it on app hosts, on the loopback address: events of any client, posture, alerts, metrics. Where this host's Redis runs
# in a container, in one beside it (TLS); elsewhere as the service redkeep-api. Off, because it is a port more and ten
# packages more on every app host, and wants the password of monitor there.
api_enabled: bool = False

# Its TCP port.
api_port: int = 8765

# Addresses or networks (CIDR) that it may reach beside this host and Redis: mail server, webhook, name servers. Where
# Redis is known by a name instead of an address, an empty list means everything. In a container only IPv4.
api_reachable: list[str] = []

# Where its image comes from with redis_runtime "docker". Empty: built on the host from the distribution's Python and the
# package's locked wheels. A digest or an archive as in container_image: what `make image` built elsewhere.
api_image: str = ""

# The page that shows it, in one more container, at http://127.0.0.1:8501 for root and app_users. Needs redis_runtime
# "docker" and api_enabled; elsewhere `redkeep dashboard` on your own machine does.
dashboard_enabled: bool = False

# Its TCP port.
dashboard_port: int = 8501

# Where its image comes from: as `api_image`.
dashboard_image: str = ""
