"""Volume, VWAP, trades, high and low of each symbol and minute, by Spark Structured Streaming.

Arguments: brokers, topic, cores, folder, schema file, folder of jars.
"""

import json
import os
import sys
import time

brokers, topic, cores, folder, schema_file, jars = sys.argv[1:7]
os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
from pyspark.sql import SparkSession, functions as F
from pyspark.sql.avro.functions import from_avro

session = (
    SparkSession.builder.master(f"local[{cores}]")
    .appName("peer")
    .config("spark.jars", ",".join(sorted(os.path.join(jars, jar) for jar in os.listdir(jars))))
    .config("spark.driver.memory", "4g")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.ui.enabled", "false")
    .config("spark.sql.shuffle.partitions", "4")
    .config("spark.sql.session.timeZone", "UTC")
    .getOrCreate()
)
session.sparkContext.setLogLevel("WARN")
records = (
    session.readStream.format("kafka")
    .option("kafka.bootstrap.servers", brokers)
    .option("subscribe", topic)
    .option("startingOffsets", "earliest")
    .load()
)
# A record is in Avro's single-object encoding: ten bytes that identify the schema, then the datum.
datum, schema = F.expr("substring(value, 11)"), open(schema_file).read()
batches = records.select(from_avro(datum, schema).alias("batch"))
trades = batches.select(
    F.col("batch.symbol").alias("symbol"), F.explode("batch.trades").alias("trade")
).select(
    "symbol",
    F.col("trade.event_time").alias("event_time"),
    F.col("trade.price").cast("double").alias("price"),
    F.col("trade.size").cast("double").alias("size"),
)
bars = (
    trades.where("size > 0")
    .withWatermark("event_time", "30 seconds")
    .groupBy(F.window("event_time", "60 seconds"), "symbol")
    .agg(
        F.sum("size").alias("volume"),
        (F.sum(F.col("price") * F.col("size")) / F.sum("size")).alias("vwap"),
        F.count("*").alias("trades"),
        F.max("price").alias("high"),
        F.min("price").alias("low"),
    )
    .select(
        "symbol",
        F.unix_millis(F.col("window.start")).alias("start"),
        "volume",
        "vwap",
        "trades",
        "high",
        "low",
    )
)


def write(batch, number):
    batch.write.mode("overwrite").csv(f"{folder}/bars/{number:06}")


began = time.time()
query = (
    bars.writeStream.outputMode("update")
    .foreachBatch(write)
    .option("checkpointLocation", f"{folder}/checkpoints")
    .trigger(availableNow=True)
    .start()
)
query.awaitTermination()
report = {"version": session.version, "began": began, "ended": time.time()}
print("PEER " + json.dumps(report), flush=True)
session.stop()
