# How one Kafka node is configured and started; sourced by ../stack. KRaft, broker and controller in one process.

KAFKA_READY='Kafka Server started'
KAFKA_CLUSTER_ID=MkU3OEVBNTcwNTJENDM2Qg # any 22 characters of base64 that decode to 16 bytes

kafka_port() { echo $((KAFKA_PORT + ($1 - 1) * 100)); }

kafka_endpoint() { echo "127.0.0.1:$(kafka_port "$1")"; }

kafka_listeners() { # every address a node listens on
  local port
  port=$(kafka_port "$1")
  echo "127.0.0.1 $port"
  echo "127.0.0.1 $((port + 1))"
}

kafka_configure() { # NODE NODES DIRECTORY
  local node=$1 nodes=$2 dir=$3 port voters='' i
  port=$(kafka_port "$node")
  for ((i = 1; i <= nodes; i++)); do voters+="${voters:+,}$i@127.0.0.1:$(($(kafka_port "$i") + 1))"; done
  cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$dir/data
num.partitions=4
auto.create.topics.enable=false
unclean.leader.election.enable=false
default.replication.factor=$nodes
min.insync.replicas=$((nodes > 1 ? 2 : 1))
offsets.topic.replication.factor=$nodes
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$nodes
transaction.state.log.min.isr=$((nodes > 1 ? 2 : 1))
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$nodes
share.coordinator.state.topic.min.isr=$((nodes > 1 ? 2 : 1))
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
PROPERTIES
  [[ -e $dir/data/meta.properties ]] || kafka_java kafka.tools.StorageTool format -t "$KAFKA_CLUSTER_ID" -c "$dir/server.properties" \
    >"$dir/format.log" 2>&1 || die "kafka $node: cannot format its storage: $(tail -n 5 "$dir/format.log")"
}

kafka_java() { # a Kafka tool: CLASS ARGUMENTS...
  java -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dlog4j2.configurationFile="$HERE/kafka/log4j2-tools.properties" -cp "$JARS/kafka/*" "$@"
}

kafka_command() { # NODES DIRECTORY: fills COMMAND
  local dir=$2
  COMMAND=(java ${TAPEFLOW_STACK_KAFKA_HEAP:--Xms256m -Xmx512m} -XX:+UseG1GC "${JIT[@]}" -Djava.awt.headless=true -Djava.net.preferIPv4Stack=true
    -Dkafka.logs.dir="$dir" -Dlog4j2.configurationFile="$HERE/kafka/log4j2.properties" -cp "$JARS/kafka/*" kafka.Kafka "$dir/server.properties")
}
