# How one Cassandra node is configured and started; sourced by ../stack.

CASSANDRA_READY='Starting listening for CQL clients'
# One token a node, evenly spaced, so that new nodes start together without a bootstrap:
# -2^63 + 1 + (node - 1) * 2^64 / nodes.
CASSANDRA_TOKENS_1=(-9223372036854775807)
CASSANDRA_TOKENS_3=(-9223372036854775807 -3074457345618258602 3074457345618258603)

cassandra_address() { # NODE: prints its address for clients
  [[ $ADDRESS == 127.0.0.1 ]] && echo "127.0.0.$1" || echo "$ADDRESS"
}

cassandra_endpoint() { echo "$(cassandra_address "$1"):$CQL_PORT"; }

cassandra_jmx_port() { echo $((JMX_PORT + ($1 - 1) * 100)); }

cassandra_listeners() { # NODE: prints each address and port that the node listens on
  echo "$(cassandra_address "$1") $CQL_PORT"
  echo "127.0.0.$1 $STORAGE_PORT"
  echo "127.0.0.1 $(cassandra_jmx_port "$1")"
}

cassandra_configure() { # NODE NODES DIRECTORY
  local node=$1 dir=$3
  local -n tokens=CASSANDRA_TOKENS_$2
  cat >"$dir/cassandra.yaml" <<YAML
cluster_name: tapeflow-dev
paxos_variant: v2
num_tokens: 1
initial_token: ${tokens[node - 1]}
auto_bootstrap: false
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
dynamic_snitch: false
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{ seeds: "127.0.0.1:$STORAGE_PORT" }]
listen_address: 127.0.0.$node
rpc_address: $(cassandra_address "$node")
native_transport_port: $CQL_PORT
storage_port: $STORAGE_PORT
ssl_storage_port: $((STORAGE_PORT + 1))
authenticator: $([[ $SECURE ]] && echo PasswordAuthenticator || echo AllowAllAuthenticator)
authorizer: AllowAllAuthorizer
data_file_directories: ["$dir/data"]
commitlog_directory: "$dir/commitlog"
saved_caches_directory: "$dir/saved_caches"
hints_directory: "$dir/hints"
cdc_raw_directory: "$dir/cdc_raw"
commitlog_sync: periodic
commitlog_sync_period: 10000ms
commitlog_segment_size: 8MiB
commitlog_total_space: 128MiB
disk_failure_policy: stop
commit_failure_policy: stop
concurrent_reads: 8
concurrent_writes: 8
concurrent_counter_writes: 4
concurrent_compactors: 1
file_cache_size: 32MiB
networking_cache_size: 16MiB
key_cache_size: 8MiB
counter_cache_size: 4MiB
memtable_heap_space: 96MiB
memtable_offheap_space: 96MiB
memtable_allocation_type: heap_buffers
hinted_handoff_enabled: true
auto_snapshot: false
YAML
  [[ -z ${TAPEFLOW_STACK_PROXIED:-} ]] ||
    echo "broadcast_rpc_address: 127.0.1.$node" >>"$dir/cassandra.yaml"
  [[ -z $SECURE ]] || cat >>"$dir/cassandra.yaml" <<YAML
client_encryption_options:
  enabled: true
  optional: false
  require_client_auth: true
  ssl_context_factory: { class_name: org.apache.cassandra.security.PEMBasedSslContextFactory }
  keystore: "$SECURE/server.pem"
  truststore: "$SECURE/ca.pem"
YAML
}

cassandra_command() { # NODE DIRECTORY: sets COMMAND
  local node=$1 dir=$2 heap='-Xms256m -Xmx768m'
  ((NODES > 1)) && heap='-Xms256m -Xmx512m'
  COMMAND=(java "@$HERE/cassandra/jpms.options" "@$HERE/cassandra/jvm.options"
    ${TAPEFLOW_STACK_CASSANDRA_HEAP:-$heap} -XX:MaxDirectMemorySize=256m "${JIT[@]}"
    -javaagent:"$(echo "$JARS"/cassandra/jamm-*.jar)"
    -Dcassandra.config="file://$dir/cassandra.yaml" -Dcassandra.storagedir="$dir"
    -Dcassandra.logdir="$dir" -Dlogback.configurationFile="file://$HERE/cassandra/logback.xml"
    -Dcassandra-foreground=yes -Dcassandra.jmx.local.port="$(cassandra_jmx_port "$node")"
    -Dcassandra.superuser_setup_delay_ms=0 -Dcassandra.ring_delay_ms=1000
    -Dcassandra.memtable.row_overhead_size=180 -Dcassandra.skip_wait_for_gossip_to_settle=0
    -XX:HeapDumpPath="$dir" -XX:ErrorFile="$dir/hs_err.log" -cp "$JARS/cassandra/*"
    org.apache.cassandra.service.CassandraDaemon)
}

cassandra_nodetool() { # NODE ARGUMENTS...
  local node=$1 dir="$RUN/cassandra/node$1"
  shift
  java -Xmx128m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Djava.net.preferIPv4Stack=true \
    "@$HERE/cassandra/jpms.options" -Dcassandra.storagedir="$dir" \
    -Dcassandra.config="file://$dir/cassandra.yaml" \
    -Dlogback.configurationFile="file://$HERE/cassandra/logback-tools.xml" \
    -cp "$JARS/cassandra/*" org.apache.cassandra.tools.NodeTool \
    -h 127.0.0.1 -p "$(cassandra_jmx_port "$node")" "$@"
}
