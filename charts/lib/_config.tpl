{{/* juicefs.configMap: the ConfigMap with the settings of mount pods, from the value
globalConfig: enabled and manageByHelm are the chart's, all other keys are
config.yaml. It is kept on uninstall, since mounts outlive the driver. With
manageByHelm false an existing one stays as it is. */}}
{{- define "juicefs.configMap" -}}
{{- $config := .Values.globalConfig -}}
{{- $byHelm := dig "manageByHelm" true $config -}}
{{- $existing := lookup "v1" "ConfigMap" (include "juicefs.namespace" .) "juicefs-csi-driver-config" -}}
{{- if or $byHelm (not $existing) }}
apiVersion: v1
kind: ConfigMap
metadata:
  name: juicefs-csi-driver-config
  namespace: {{ include "juicefs.namespace" . }}
  labels:
    {{- include "juicefs.labels" . | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
data:
  config.yaml: |
    {{- omit $config "enabled" "manageByHelm" | toYaml | nindent 4 }}
{{- end }}
{{- end -}}
