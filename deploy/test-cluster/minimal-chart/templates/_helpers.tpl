{{- define "container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "servers" -}}
- {name: TAPEFLOW_BROKERS, value: {{ .Values.kafka.brokers | quote }}}
- {name: TAPEFLOW_TOPIC, value: {{ .Values.kafka.topic | quote }}}
{{- with .Values.cassandra }}
- {name: TAPEFLOW_STORE, value: "cassandra://{{ .contactPoints }}/{{ .keyspace }}"}
{{- end }}
{{- end }}
