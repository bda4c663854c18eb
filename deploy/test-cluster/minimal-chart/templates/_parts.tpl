{{- define "container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "servers" -}}
- {name: TAPEFLOW_BROKERS, value: {{ .Values.kafka.brokers | quote }}}
- {name: TAPEFLOW_TOPIC, value: {{ .Values.kafka.topic | quote }}}
- {name: TAPEFLOW_STORE, value: "cassandra://{{ .Values.cassandra.contactPoints }}/{{ .Values.cassandra.keyspace }}"}
{{- end }}
