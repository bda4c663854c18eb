import java.io.IOException;
import java.math.BigInteger;
import java.time.Duration;
import java.time.Instant;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.util.Utf8;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.runtime.util.EnvironmentInformation;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.api.Schema;
import org.apache.flink.table.api.TableResult;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.util.Collector;

/**
 * Volume, VWAP, trades, high and low of each symbol and minute, by Flink SQL. Arguments: brokers,
 * topic, parallelism, folder.
 */
public class FlinkPeer {
    /** A row of the SQL view `trades`. */
    public static class Trade {
        public String symbol;
        public Instant eventTime;
        public double price;
        public double size;

        public Trade() {}
    }

    /**
     * Reads a batch in Avro's single-object encoding. It is written by hand for the one known
     * schema, because that is faster than Avro's generic reader.
     */
    public static class Batches implements DeserializationSchema<Trade> {
        private transient BinaryDecoder decoder;
        private final byte[] price = new byte[8];
        private final byte[] size = new byte[16];
        private final byte[] session = new byte[16];

        @Override
        public Trade deserialize(byte[] message) {
            throw new UnsupportedOperationException("a message holds several trades");
        }

        @Override
        public void deserialize(byte[] message, Collector<Trade> out) throws IOException {
            decoder = DecoderFactory.get().binaryDecoder(message, 10, message.length - 10, decoder);
            String symbol = decoder.readString();
            decoder.skipString();
            decoder.readFixed(session);
            decoder.readLong();
            decoder.readLong();
            for (long left = decoder.readArrayStart(); left != 0; left = decoder.arrayNext()) {
                for (long i = 0; i < left; i++) {
                    Trade trade = new Trade();
                    trade.symbol = symbol;
                    trade.eventTime = Instant.ofEpochMilli(decoder.readLong());
                    decoder.readFixed(price);
                    decoder.readFixed(size);
                    decoder.skipBytes();
                    long units = 0;
                    for (byte b : price) units = units << 8 | (b & 0xff);
                    trade.price = units / 1e8;
                    long high = 0, low = 0;
                    for (int at = 0; at < 8; at++) high = high << 8 | (size[at] & 0xff);
                    for (int at = 8; at < 16; at++) low = low << 8 | (size[at] & 0xff);
                    boolean isLong = high == 0 && low >= 0;
                    trade.size = (isLong ? (double) low : new BigInteger(size).doubleValue()) / 1e8;
                    if (trade.size > 0) out.collect(trade);
                }
            }
        }

        @Override
        public boolean isEndOfStream(Trade trade) {
            return false;
        }

        @Override
        public TypeInformation<Trade> getProducedType() {
            return TypeInformation.of(Trade.class);
        }
    }

    public static void main(String[] arguments) throws Exception {
        String brokers = arguments[0], topic = arguments[1], folder = arguments[3];
        Configuration settings = new Configuration();
        settings.setString("execution.checkpointing.dir", "file://" + folder + "/checkpoints");
        settings.setString("execution.checkpointing.interval", "1000 ms");
        settings.setString("execution.checkpointing.mode", "EXACTLY_ONCE");
        settings.setString("state.backend.type", "hashmap");
        settings.setString("pipeline.object-reuse", "true");
        settings.setString("taskmanager.memory.managed.size", "512m");
        settings.setString("taskmanager.memory.network.min", "128m");
        settings.setString("taskmanager.memory.network.max", "128m");
        settings.setString("table.local-time-zone", "UTC");
        StreamExecutionEnvironment environment =
                StreamExecutionEnvironment.createLocalEnvironment(
                        Integer.parseInt(arguments[2]), settings);
        StreamTableEnvironment tables = StreamTableEnvironment.create(environment);
        KafkaSource<Trade> source = KafkaSource.<Trade>builder()
                .setBootstrapServers(brokers)
                .setTopics(topic)
                .setGroupId("flink-peer-" + System.nanoTime())
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setBounded(OffsetsInitializer.latest())
                .setDeserializer(KafkaRecordDeserializationSchema.valueOnly(new Batches()))
                .build();
        DataStream<Trade> trades = environment.fromSource(
                source,
                // A watermark for each partition: the partitions of a backlog are not read in step.
                WatermarkStrategy.<Trade>forBoundedOutOfOrderness(Duration.ofSeconds(6))
                        .withTimestampAssigner((trade, before) -> trade.eventTime.toEpochMilli()),
                "trades");
        Schema schema = Schema.newBuilder()
                .column("symbol", "STRING NOT NULL")
                .column("eventTime", "TIMESTAMP_LTZ(3) NOT NULL")
                .column("price", "DOUBLE NOT NULL")
                .column("size", "DOUBLE NOT NULL")
                .columnByMetadata("rowtime", "TIMESTAMP_LTZ(3)")
                .watermark("rowtime", "SOURCE_WATERMARK()")
                .build();
        tables.createTemporaryView("trades", trades, schema);
        tables.executeSql("CREATE TABLE bars (symbol STRING, `start` BIGINT, volume DOUBLE,"
                + " vwap DOUBLE, trades BIGINT, high DOUBLE, low DOUBLE)"
                + " WITH ('connector' = 'filesystem', 'format' = 'csv',"
                + " 'path' = 'file://" + folder + "/bars')");
        double began = System.currentTimeMillis() / 1e3;
        TableResult result = tables.executeSql("INSERT INTO bars"
                + " SELECT symbol, UNIX_TIMESTAMP(CAST(window_start AS STRING)) * 1000,"
                + " SUM(`size`), SUM(price * `size`) / SUM(`size`), COUNT(*),"
                + " MAX(price), MIN(price)"
                + " FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(rowtime), INTERVAL '60' SECOND))"
                + " GROUP BY window_start, window_end, symbol");
        result.await();
        double ended = System.currentTimeMillis() / 1e3;
        System.out.printf(
                "PEER {\"version\": \"%s\", \"began\": %.3f, \"ended\": %.3f}%n",
                EnvironmentInformation.getVersion(), began, ended);
        System.exit(0);
    }
}
