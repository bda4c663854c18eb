{{/* At most 34 characters: `-dataflow-` and eight of a hash come after it, and a StatefulSet whose name has more than 52 cannot label its pods. */}}
{{- define "tapeflow.name" -}}
{{- if contains "tapeflow" .Release.Name }}{{ .Release.Name | trunc 34 | trimSuffix "-" }}{{ else }}{{ printf "%s-tapeflow" (.Release.Name | trunc 25 | trimSuffix "-") }}{{ end -}}
{{- end }}

{{- define "tapeflow.selector" -}}
app.kubernetes.io/name: tapeflow
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tapeflow.labels" -}}
{{ include "tapeflow.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "tapeflow.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Where the servers are; what is missing is told by name. */}}
{{- define "tapeflow.brokers" -}}
{{- if .Values.kafka.brokers }}{{ .Values.kafka.brokers }}
{{- else if .Values.bundled.kafka.enabled }}{{ include "tapeflow.name" . }}-kafka:9092
{{- else }}{{ fail "kafka.brokers: say where Kafka is, or set bundled.kafka.enabled" }}{{ end -}}
{{- end }}
{{- define "tapeflow.contactPoints" -}}
{{- if .Values.cassandra.contactPoints }}{{ .Values.cassandra.contactPoints }}
{{- else if .Values.bundled.cassandra.enabled }}{{ include "tapeflow.name" . }}-cassandra:9042
{{- else }}{{ fail "cassandra.contactPoints: say where Cassandra is, or set bundled.cassandra.enabled" }}{{ end -}}
{{- end }}

{{/* What every container of ours has in common. */}}
{{- define "tapeflow.container" -}}
image: {{ include "tapeflow.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}
{{- define "tapeflow.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Settings of Kafka, of Cassandra, and of the log: environment, mounts, volumes. Secrets come as files, or from the environment of the one process that needs them. */}}
{{- define "tapeflow.env.log" -}}
- {name: TAPEFLOW_LOG_LEVEL, value: {{ .Values.log.level | quote }}}
- {name: TAPEFLOW_LOG_FORMAT, value: {{ .Values.log.format | quote }}}
{{- end }}
{{- define "tapeflow.env.kafka" -}}
- {name: TAPEFLOW_BROKERS, value: {{ include "tapeflow.brokers" . | quote }}}
- {name: TAPEFLOW_TOPIC, value: {{ .Values.kafka.topic | quote }}}
{{- if .Values.kafka.existingSecret.name }}
- {name: TAPEFLOW_KAFKA_CONFIG_FILE, value: /secrets/kafka/{{ .Values.kafka.existingSecret.key }}}
{{- end }}
{{- end }}
{{- define "tapeflow.env.cassandra" -}}
- {name: TAPEFLOW_STORE, value: {{ printf "cassandra://%s/%s" (include "tapeflow.contactPoints" .) .Values.cassandra.keyspace | quote }}}
{{- with .Values.cassandra.existingSecret }}
{{- if .name }}
- {name: TAPEFLOW_CASSANDRA_USER, valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .userKey }}}}}
- {name: TAPEFLOW_CASSANDRA_PASSWORD_FILE, value: /secrets/cassandra/{{ .passwordKey }}}
{{- end }}
{{- end }}
{{- if .Values.cassandra.tls.enabled }}
- {name: TAPEFLOW_CASSANDRA_TLS, value: "true"}
{{- if .Values.cassandra.tls.caSecret.name }}
- {name: TAPEFLOW_CASSANDRA_CA_FILE, value: /secrets/cassandra-ca/{{ .Values.cassandra.tls.caSecret.key }}}
{{- end }}
{{- with .Values.cassandra.tls.clientSecret }}
{{- if .name }}
- {name: TAPEFLOW_CASSANDRA_CERT_FILE, value: /secrets/cassandra-client/{{ .certKey }}}
- {name: TAPEFLOW_CASSANDRA_KEY_FILE, value: /secrets/cassandra-client/{{ .keyKey }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- define "tapeflow.env.http" -}}
- {name: TAPEFLOW_HTTP, value: "0.0.0.0:8080"}
{{- if .Values.http.existingSecret.name }}
- {name: TAPEFLOW_HTTP_PASSWORD_FILE, value: /secrets/http/{{ .Values.http.existingSecret.key }}}
{{- end }}
{{- end }}
{{- define "tapeflow.mounts" -}}
{{- range . }}
- {name: {{ .name }}, mountPath: {{ .at }}, readOnly: true}
{{- end }}
{{- end }}

{{/* The secrets a component mounts, as a JSON list of {name, at, secret | configMap}. */}}
{{- define "tapeflow.files" -}}
{{- $root := index . 0 }}{{- $of := index . 1 }}{{- $files := list }}
{{- $v := $root.Values }}
{{- if and (has "kafka" $of) $v.kafka.existingSecret.name }}{{ $files = append $files (dict "name" "kafka" "at" "/secrets/kafka" "secret" $v.kafka.existingSecret.name) }}{{ end }}
{{- if and (has "cassandra" $of) $v.cassandra.existingSecret.name }}{{ $files = append $files (dict "name" "cassandra" "at" "/secrets/cassandra" "secret" $v.cassandra.existingSecret.name) }}{{ end }}
{{- if and (has "cassandra" $of) $v.cassandra.tls.enabled $v.cassandra.tls.caSecret.name }}{{ $files = append $files (dict "name" "cassandra-ca" "at" "/secrets/cassandra-ca" "secret" $v.cassandra.tls.caSecret.name) }}{{ end }}
{{- if and (has "cassandra" $of) $v.cassandra.tls.enabled $v.cassandra.tls.clientSecret.name }}{{ $files = append $files (dict "name" "cassandra-client" "at" "/secrets/cassandra-client" "secret" $v.cassandra.tls.clientSecret.name) }}{{ end }}
{{- if and (has "http" $of) $v.http.existingSecret.name }}{{ $files = append $files (dict "name" "http" "at" "/secrets/http" "secret" $v.http.existingSecret.name) }}{{ end }}
{{- if and (has "baskets" $of) $v.dataflow.baskets.configMap }}{{ $files = append $files (dict "name" "baskets" "at" "/settings/baskets" "configMap" $v.dataflow.baskets.configMap) }}{{ end }}
{{- if has "token" $of }}{{ $files = append $files (dict "name" "token" "at" "/secrets/finnhub" "secret" (ternary (printf "%s-simulated" (include "tapeflow.name" $root)) $v.ingest.existingSecret.name $v.ingest.simulated.enabled)) }}{{ end }}
{{- toJson $files }}
{{- end }}
{{- define "tapeflow.volumes" -}}
{{- range . }}
- name: {{ .name }}
  {{- if .secret }}
  secret: {secretName: {{ .secret }}, defaultMode: 0440}
  {{- else }}
  configMap: {name: {{ .configMap }}}
  {{- end }}
{{- end }}
{{- end }}
{{- define "tapeflow.probes" -}}
readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 2, failureThreshold: 2}
livenessProbe: {httpGet: {path: /livez, port: http}, initialDelaySeconds: 30, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
{{- end }}
