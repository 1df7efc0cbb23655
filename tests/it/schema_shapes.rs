//! Records as other programs write them: `schema` makes a proposal, `check` accepts it and `run` drains with it, without any
//! edit.

use tidegate_harness::Record;

use crate::support::World;

impl World {
    async fn with(values: &[&str]) -> Self {
        let world = Self::new(1).await;
        world.produce(values.iter().map(|value| Record::new(*value)));
        world
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_protobuf_as_json() {
    let world = World::with(&[
        r#"{"deviceId":"9007199254740993","sequence":"18446744073709551615","recordedAt":"2026-01-31T12:00:00.123456789Z",
            "uptime":"1.5s","celsius":21.5,"humidity":"NaN","ok":true,"status":"STATUS_OK","payload":"AAEC","firmware":"1.20",
            "position":{"lat":52.5,"lon":13.25},"labels":["a","b"],"counts":["1","2"]}"#,
        r#"{"deviceId":"-1","sequence":"0","recordedAt":"2026-01-31T12:00:01Z","uptime":"-0.000340012s","celsius":"Infinity",
            "humidity":0.5,"ok":false,"status":"STATUS_LOW","payload":"","firmware":"2.0.1","position":null,"labels":[],"counts":[]}"#,
    ])
    .await;
    world.by_its_proposal(&[], &["deviceId = { field = \"deviceId\", type = \"int8\" }"]).await;
    assert_eq!(
        world.columns().await,
        "deviceId int8, sequence numeric, recordedAt timestamptz, uptime interval, celsius float8, humidity float8, ok bool, \
         status text, payload text, firmware text, position_lat float8, position_lon float8, labels text[], counts int8[]"
    );
    assert_eq!(
        world.text("SELECT string_agg(concat_ws('|', \"deviceId\", sequence, \"recordedAt\" AT TIME ZONE 'UTC', uptime, celsius, humidity, position_lon, counts), ' ' ORDER BY sequence DESC) FROM t").await,
        "9007199254740993|18446744073709551615|2026-01-31 12:00:00.123457|00:00:01.5|21.5|NaN|13.25|{1,2} \
         -1|0|2026-01-31 12:00:01|-00:00:00.00034|Infinity|0.5|{}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_opentelemetry() {
    let record = |nanos: &str, body: &str| {
        format!(
            r#"{{"timeUnixNano":"{nanos}","observedTimeUnixNano":"{nanos}","severityNumber":9,"severityText":"INFO","body":{body},
            "attributes":[{{"key":"http.status","value":{{"intValue":"200"}}}}],"traceId":"5b8efff798038103d269b633813fc60c",
            "spanId":"eee19b7ec3c1b174","flags":1}}"#
        )
    };
    let value = format!(
        r#"{{"resourceLogs":[{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"gate"}}}}]}},
        "scopeLogs":[{{"scope":{{"name":"one","version":"1.0"}},"logRecords":[{},{}]}},
          {{"scope":{{"name":"two","version":"1.1"}},"logRecords":[{}]}}],"schemaUrl":"https://example.test/1"}}]}}"#,
        record("1769860800123456789", r#"{"stringValue":"a"}"#),
        record("1769860801000000000", r#"{"stringValue":"b"}"#),
        record("1769860802000000000", r#"{"kvlistValue":{"values":[]}}"#),
    );
    let world = World::with(&[&value]).await;
    world.by_its_proposal(&[], &["rows = \"resourceLogs[].scopeLogs[].logRecords\""]).await;
    assert_eq!(
        world.columns().await,
        "resource jsonb, schemaUrl text, scope_name text, scope_version text, timeUnixNano timestamptz, \
         observedTimeUnixNano timestamptz, severityNumber int8, severityText text, body jsonb, attributes jsonb, traceId text, \
         spanId text, flags int8"
    );
    assert_eq!(
        world.text("SELECT string_agg(concat_ws('|', scope_name, \"timeUnixNano\" AT TIME ZONE 'UTC', body->>'stringValue', \"spanId\", kafka_row), ' ' ORDER BY kafka_row) FROM t").await,
        "one|2026-01-31 12:00:00.123457|a|eee19b7ec3c1b174|1 one|2026-01-31 12:00:01|b|eee19b7ec3c1b174|2 \
         two|2026-01-31 12:00:02|eee19b7ec3c1b174|3"
    );
    let service = "SELECT DISTINCT resource->'attributes'->0->'value'->>'stringValue' FROM t";
    assert_eq!(world.text(service).await, "gate");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_traces_of_opentelemetry() {
    let world = World::with(&[
        r#"{"resourceMetrics":[{"resource":{"attributes":[]},"scopeMetrics":[{"scope":{"name":"m"},"metrics":[
            {"name":"temperature","unit":"Cel","gauge":{"dataPoints":[
                {"asDouble":21.5,"timeUnixNano":"1769860800000000000","attributes":[{"key":"room","value":{"stringValue":"n"}}]},
                {"asDouble":22,"timeUnixNano":"1769860801000000000","attributes":[]}]}},
            {"name":"humidity","unit":"%","gauge":{"dataPoints":[{"asDouble":40.25,"timeUnixNano":"1769860800000000000","attributes":[]}]}}]}]}]}"#,
    ])
    .await;
    let rows = "rows = \"resourceMetrics[].scopeMetrics[].metrics[].gauge.dataPoints\"";
    world.by_its_proposal(&[], &[rows]).await;
    assert_eq!(
        world.columns().await,
        "resource jsonb, scope_name text, name text, unit text, asDouble float8, timeUnixNano timestamptz, attributes jsonb"
    );
    assert_eq!(
        world
            .text("SELECT string_agg(concat_ws(':', kafka_row, name, \"asDouble\"), ' ' ORDER BY kafka_row) FROM t")
            .await,
        "1:temperature:21.5 2:temperature:22 3:humidity:40.25"
    );

    // Metrics of two kinds have no common array below the metric. So a row stands for a metric.
    let world = World::with(&[
        r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[
            {"name":"t","gauge":{"dataPoints":[{"asDouble":21.5,"timeUnixNano":"1769860800000000000"}]}},
            {"name":"n","sum":{"dataPoints":[{"asInt":"7","timeUnixNano":"1769860800000000000"}],"isMonotonic":true}}]}]}]}"#,
    ])
    .await;
    world.by_its_proposal(&[], &["rows = \"resourceMetrics[].scopeMetrics[].metrics\""]).await;
    assert_eq!(world.columns().await, "name text, gauge jsonb, sum jsonb");
    let point =
        "SELECT concat(max(gauge->'dataPoints'->0->>'asDouble'), '|', max(sum->'dataPoints'->0->>'asInt')) FROM t";
    assert_eq!(world.text(point).await, "21.5|7");

    let world = World::with(&[
        r#"{"resourceSpans":[{"resource":{"attributes":[]},"scopeSpans":[{"scope":{"name":"s"},"spans":[
            {"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","parentSpanId":"","name":"GET /","kind":2,
             "startTimeUnixNano":"1769860800000000000","endTimeUnixNano":"1769860800250000000","attributes":[],
             "events":[{"timeUnixNano":"1769860800100000000","name":"e"}],"status":{"code":1}}]}]}]}"#,
    ])
    .await;
    world.by_its_proposal(&[], &["rows = \"resourceSpans[].scopeSpans[].spans\""]).await;
    let span = "SELECT concat_ws('|', \"endTimeUnixNano\" - \"startTimeUnixNano\", kind, name, status_code, \"traceId\", events->0->>'name') FROM t";
    assert_eq!(world.text(span).await, "00:00:00.25|2|GET /|1|5b8efff798038103d269b633813fc60c|e");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_mongodb_in_extended_json() {
    // The documents are in MongoDB's extended JSON, in its canonical form and in its relaxed form.
    let world = World::with(&[
        r#"{"_id":{"$oid":"507f1f77bcf86cd799439011"},"at":{"$date":{"$numberLong":"1769860800123"}},"count":{"$numberLong":"9007199254740993"},
            "small":{"$numberInt":"7"},"ratio":{"$numberDouble":"1.5"},"price":{"$numberDecimal":"9.90"},"name":"a",
            "photo":{"$binary":{"base64":"AAEC","subType":"00"}},"owner":{"id":{"$oid":"507f1f77bcf86cd799439012"},"since":{"$date":{"$numberLong":"0"}}},
            "tags":["x"],"parts":[{"n":{"$numberInt":"1"}}],"x1":1,"x2":2}"#,
    ])
    .await;
    world.by_its_proposal(&[], &["_id = { field = \"_id.$oid\", type = \"text\" }"]).await;
    assert_eq!(
        world.columns().await,
        "_id text, at timestamptz, count int8, small int8, ratio float8, price numeric, name text, photo bytea, owner_id text, \
         owner_since timestamptz, tags text[], parts jsonb, x1 int8, x2 int8"
    );
    assert_eq!(
        world.text("SELECT concat_ws('|', _id, at AT TIME ZONE 'UTC', count, small, ratio, price, encode(photo, 'hex'), owner_id, owner_since AT TIME ZONE 'UTC') FROM t").await,
        "507f1f77bcf86cd799439011|2026-01-31 12:00:00.123|9007199254740993|7|1.5|9.90|000102|507f1f77bcf86cd799439012|1970-01-01 00:00:00"
    );
    let world = World::with(&[
        r#"{"_id":{"$oid":"507f1f77bcf86cd799439011"},"at":{"$date":"2026-01-31T12:00:00.123Z"},"count":9007199254740993,"ratio":1.5}"#,
        r#"{"_id":{"$oid":"507f1f77bcf86cd799439012"},"at":null,"count":1,"ratio":2}"#,
    ])
    .await;
    world.by_its_proposal(&[], &["at = { field = \"at.$date\", type = \"timestamptz\" } # in 1 of 2"]).await;
    assert_eq!(world.columns().await, "_id text, at timestamptz, count int8, ratio float8");
    assert_eq!(
        world.text("SELECT string_agg(concat_ws('|', right(_id, 2), at AT TIME ZONE 'UTC', count, ratio), ' ' ORDER BY _id) FROM t").await,
        "11|2026-01-31 12:00:00.123|9007199254740993|1.5 12|1|2"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_and_records_of_fluent_bit() {
    let line = |micros: u32| {
        format!(
            r#"{{"date":1769860800.{micros:06},"log":"line {micros}","stream":"stdout","kubernetes":{{"pod_name":"p","labels":{{"app":"a"}}}}}}"#
        )
    };
    let world =
        World::with(&[&format!("{}\n{}\n", line(123_456), line(2)), &format!("{}\n{}", line(3), line(4))]).await;
    world.by_its_proposal(&[], &["format = \"ndjson\"", "unit = \"s\""]).await;
    assert_eq!(world.columns().await, "date timestamptz, log text, stream text, kubernetes jsonb");
    assert_eq!(
        world.text("SELECT string_agg(to_char(date AT TIME ZONE 'UTC', 'MI:SS.US'), ' ' ORDER BY date) FROM t").await,
        "00:00.000002 00:00.000003 00:00.000004 00:00.123456"
    );
    // Fluent Bit's output for Kafka has one record per event.
    let world = World::with(&[r#"{"@timestamp":1769860800.123456,"message":"a","host":"10.0.0.7"}"#]).await;
    world
        .by_its_proposal(&[], &["\"@timestamp\" = { field = \"@timestamp\", type = \"timestamptz\", unit = \"s\" }"])
        .await;
    assert_eq!(world.columns().await, "@timestamp timestamptz, message text, host inet");
    assert_eq!(
        world.text("SELECT (\"@timestamp\" AT TIME ZONE 'UTC')::text FROM t").await,
        "2026-01-31 12:00:00.123456"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_of_gateways() {
    let world = World::with(&[
        r#"{"gateway":"g1","mac":"08:00:2b:01:02:03","sent":"2026-01-31T12:00:00","readings":[
            {"sensor":"a","ts":1769860800123,"values":{"celsius":21.5,"ph":"7.10"}},{"sensor":"b","ts":1769860800124,"values":{"celsius":20,"ph":"6.9"}}]}"#,
        r#"{"gateway":"g2","mac":"08:00:2b:01:02:04","sent":"2026-01-31T12:00:01.5","readings":[]}"#,
        r#"{"gateway":"g3","mac":"08:00:2b:01:02:05","sent":"2026-01-31T12:00:02","readings":[{"sensor":"a","ts":1769860801000,"values":{"celsius":19.5,"ph":"7"}}]}"#,
    ])
    .await;
    let check = world
        .by_its_proposal(&[], &["rows = \"readings\"", "zone = \"UTC\" } # times without a zone are taken for UTC"])
        .await;
    check.says(&["column values_ph: 3 of 3 rows have readings.values.ph"]);
    assert_eq!(
        world.columns().await,
        "gateway text, mac macaddr, sent timestamptz, sensor text, ts timestamptz, values_celsius float8, values_ph numeric"
    );
    assert_eq!(
        world.text("SELECT string_agg(concat_ws('|', gateway, kafka_row, mac, to_char(sent AT TIME ZONE 'UTC', 'HH24:MI:SS'), sensor, extract(epoch from ts), values_celsius, values_ph), ' ' ORDER BY gateway, kafka_row) FROM t").await,
        "g1|1|08:00:2b:01:02:03|12:00:00|a|1769860800.123000|21.5|7.10 g1|2|08:00:2b:01:02:03|12:00:00|b|1769860800.124000|20|6.9 \
         g3|1|08:00:2b:01:02:05|12:00:02|a|1769860801.000000|19.5|7"
    );
    // The value is an array of readings, without an object around it.
    let world = World::with(&[r#"[{"sensor":1,"v":2.5},{"sensor":2,"v":3.5}]"#]).await;
    world.by_its_proposal(&[], &["kafka_row = { meta = \"ordinal\""]).await;
    assert_eq!(
        world.text("SELECT string_agg(concat_ws(':', kafka_row, sensor, v), ' ' ORDER BY sensor) FROM t").await,
        "1:1:2.5 2:2:3.5"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_suricata_and_connections_of_zeek() {
    let world = World::with(&[
        r#"{"timestamp":"2026-01-31T12:00:00.251547+0100","flow_id":1805461738637437,"in_iface":"eth0","event_type":"alert","src_ip":"192.168.1.5",
            "src_port":56118,"dest_ip":"2001:db8::1","dest_port":443,"proto":"TCP","community_id":"1:xyz=","alert":{"action":"allowed","gid":1,
            "signature_id":2024056,"rev":4,"signature":"A rule","category":"Misc","severity":3,"metadata":{"tag":["x"]}}}"#,
        r#"{"timestamp":"2026-01-31T12:00:01.000000+0100","flow_id":2,"in_iface":"eth0","event_type":"dns","src_ip":"10.0.0.1","src_port":5,
            "dest_ip":"10.0.0.2","dest_port":53,"proto":"UDP","dns":{"type":"answer","id":7,"rrname":"example.test","answers":[{"rrname":"example.test","ttl":5}]}}"#,
        r#"{"timestamp":"2026-01-31T12:00:02.000000+0100","event_type":"stats","stats":{"uptime":10,"capture":{"kernel_packets":5}}}"#,
    ])
    .await;
    world.by_its_proposal(&[], &["src_ip = { field = \"src_ip\", type = \"inet\" } # in 2 of 3"]).await;
    assert_eq!(
        world.columns().await,
        "timestamp timestamptz, flow_id int8, in_iface text, event_type text, src_ip inet, src_port int8, dest_ip inet, dest_port int8, \
         proto text, community_id text, alert jsonb, dns jsonb, stats jsonb"
    );
    assert_eq!(
        world.text("SELECT string_agg(concat_ws('|', timestamp AT TIME ZONE 'UTC', flow_id, src_ip, dest_ip, alert->>'signature_id', dns->>'id', stats->>'uptime'), ' ' ORDER BY timestamp) FROM t").await,
        "2026-01-31 11:00:00.251547|1805461738637437|192.168.1.5|2001:db8::1|2024056 \
         2026-01-31 11:00:01|2|10.0.0.1|10.0.0.2|7 2026-01-31 11:00:02|10"
    );

    let world = World::with(&[
        r#"{"ts":1769860800.123456,"uid":"CHhAvVGS1DHFjwGM9","id.orig_h":"10.0.0.1","id.orig_p":49152,"id.resp_h":"fe80::1","id.resp_p":53,
            "proto":"udp","service":"dns","duration":0.253,"orig_bytes":45,"conn_state":"SF","local_orig":true,"history":"Dd"}"#,
        r#"{"ts":1769860801,"uid":"C4J4Th3PJpwUYZZ6gc","id.orig_h":"10.0.0.2","id.orig_p":1,"id.resp_h":"10.0.0.3","id.resp_p":80,
            "proto":"tcp","conn_state":"S0","local_orig":false,"history":"S","tunnel_parents":["a"]}"#,
    ])
    .await;
    world.by_its_proposal(&[], &[r#""id.orig_h" = { field = "id\\.orig_h", type = "inet" }"#]).await;
    assert_eq!(
        world.columns().await,
        "ts timestamptz, uid text, id.orig_h inet, id.orig_p int8, id.resp_h inet, id.resp_p int8, proto text, service text, \
         duration float8, orig_bytes int8, conn_state text, local_orig bool, history text, tunnel_parents text[]"
    );
    assert_eq!(
        world.text("SELECT string_agg(concat_ws('|', ts AT TIME ZONE 'UTC', \"id.orig_h\", \"id.resp_h\", \"id.resp_p\", duration, orig_bytes, tunnel_parents), ' ' ORDER BY ts) FROM t").await,
        "2026-01-31 12:00:00.123456|10.0.0.1|fe80::1|53|0.253|45 2026-01-31 12:00:01|10.0.0.2|10.0.0.3|80|{a}"
    );
}
