{{/* juicefs-csi.secretKey: one line of a Secret's stringData, nothing when the value
is absent. Takes a list of key and value; a number may be zero. */}}
{{- define "juicefs-csi.secretKey" -}}
{{- $value := index . 1 | toString -}}
{{- if not (or (kindIs "invalid" (index . 1)) (eq $value "")) }}
  {{ index . 0 }}: {{ $value | quote }}
{{- end }}
{{- end -}}
