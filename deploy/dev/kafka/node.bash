# How one Kafka node is configured and started; sourced by ../stack. Each node runs KRaft, with the
# broker and the controller in one process.

KAFKA_READY='Kafka Server started'
# Users of a secure node: a superuser, and a user with only the rights that access lists grant.
KAFKA_USERS=(
  'SCRAM-SHA-512=[name=tapeflow,password=tapeflow-development]'
  'SCRAM-SHA-512=[name=limited,password=limited-development]'
)
KAFKA_CLUSTER_ID=MkU3OEVBNTcwNTJENDM2Qg # any 16 bytes, as 22 characters of base64

kafka_port() { echo $((KAFKA_PORT + ($1 - 1) * 100)); }

kafka_endpoint() { echo "$ADDRESS:$(kafka_port "$1")"; }

kafka_listeners() { # NODE: prints each address and port that the node listens on
  local port
  port=$(kafka_port "$1")
  echo "$ADDRESS $port"
  echo "127.0.0.1 $((port + 1))"
  [[ -z $SECURE ]] || echo "127.0.0.1 $((port + 2))"
  [[ -z ${TAPEFLOW_STACK_PROXIED:-} ]] || echo "127.0.0.1 $((port + 3))"
}

kafka_configure() { # NODE NODES DIRECTORY
  local node=$1 nodes=$2 dir=$3 port voters='' i
  port=$(kafka_port "$node")
  for ((i = 1; i <= nodes; i++)); do
    voters+="${voters:+,}$i@127.0.0.1:$(($(kafka_port "$i") + 1))"
  done
  cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
listeners=PLAINTEXT://$ADDRESS:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://$ADDRESS:$port
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
  [[ -z ${TAPEFLOW_STACK_PROXIED:-} ]] || kafka_proxied "$port" "$node" >>"$dir/server.properties"
  [[ -z $SECURE ]] || kafka_secure "$port" >>"$dir/server.properties"
  local users=()
  [[ -z $SECURE ]] || for user in "${KAFKA_USERS[@]}"; do users+=(--add-scram "$user"); done
  [[ -e $dir/data/meta.properties ]] ||
    kafka_java kafka.tools.StorageTool format -t "$KAFKA_CLUSTER_ID" -c "$dir/server.properties" \
      "${users[@]}" >"$dir/format.log" 2>&1 ||
    die "kafka node $node: cannot format its storage: $(tail -n 5 "$dir/format.log")"
}

# PORT NODE: settings that add a listener. It announces the address of the node's proxy.
kafka_proxied() {
  local at=127.0.0.1
  cat <<PROPERTIES
listeners=PLAINTEXT://$at:$1,CONTROLLER://$at:$(($1 + 1)),PROXIED://$at:$(($1 + 3))
advertised.listeners=PLAINTEXT://127.0.0.1:$1,PROXIED://127.0.1.$2:$(($1 + 3))
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
PROPERTIES
}

# PORT: settings of a secure node. They override earlier lines: Kafka uses the last value of a key.
# Tools and other nodes connect to the listener INTERNAL, which asks for no password.
kafka_secure() {
  local mechanism=listener.name.sasl_ssl.scram-sha-512 login=org.apache.kafka.common.security.scram
  local at=127.0.0.1
  cat <<PROPERTIES
listeners=SASL_SSL://$at:$1,CONTROLLER://$at:$(($1 + 1)),INTERNAL://$at:$(($1 + 2))
advertised.listeners=SASL_SSL://localhost:$1,INTERNAL://127.0.0.1:$(($1 + 2))
inter.broker.listener.name=INTERNAL
listener.security.protocol.map=SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512
$mechanism.sasl.jaas.config=$login.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location=$SECURE/server.pem
ssl.truststore.type=PEM
ssl.truststore.location=$SECURE/ca.pem
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:tapeflow;User:ANONYMOUS
PROPERTIES
}

kafka_java() { # CLASS ARGUMENTS...: runs a Kafka tool
  java -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC \
    -Dlog4j2.configurationFile="$HERE/kafka/log4j2-tools.properties" -cp "$JARS/kafka/*" "$@"
}

kafka_command() { # NODE DIRECTORY: sets COMMAND
  local dir=$2
  COMMAND=(java ${TAPEFLOW_STACK_KAFKA_HEAP:--Xms256m -Xmx512m} -XX:+UseG1GC "${JIT[@]}"
    -Djava.awt.headless=true -Djava.net.preferIPv4Stack=true -Dkafka.logs.dir="$dir"
    -Dlog4j2.configurationFile="$HERE/kafka/log4j2.properties" -cp "$JARS/kafka/*"
    kafka.Kafka "$dir/server.properties")
}
