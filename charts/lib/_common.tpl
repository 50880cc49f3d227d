{{/*
Helpers of all charts. Each chart's templates directory links to this one file, so
that a chart installs alone; the definitions are the same wherever it is loaded from.
*/}}

{{/* juicefs.selector: the one label that selects a component's pods; part of the
interface (the existing driver's tools look pods up by it), never changed. */}}
{{- define "juicefs.selector" -}}
app: juicefs-csi-{{ .Chart.Name }}
{{- end -}}

{{/* juicefs.labels: the labels of every object of a chart. */}}
{{- define "juicefs.labels" -}}
app.kubernetes.io/name: juicefs-csi-driver
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Chart.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* juicefs.podLabels: the labels of a pod template, without versions, so that an
upgrade that changes nothing in a service does not restart it. */}}
{{- define "juicefs.podLabels" -}}
{{ include "juicefs.selector" . }}
app.kubernetes.io/name: juicefs-csi-driver
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Chart.Name }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* juicefs.imageOf: the reference of an image. Takes a dict of root (the chart's
context), image (registry, repository, tag, digest) and defaultTag. */}}
{{- define "juicefs.imageOf" -}}
{{- $global := .root.Values.global.image -}}
{{- $registry := .image.registry | default $global.registry -}}
{{- $tag := .image.tag | default .defaultTag -}}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ $tag }}{{ end -}}
{{- end -}}

{{/* juicefs.image: the reference of the chart's own image. */}}
{{- define "juicefs.image" -}}
{{- $tag := .Values.global.image.tag | default .Chart.AppVersion -}}
{{- include "juicefs.imageOf" (dict "root" . "image" .Values.image "defaultTag" $tag) -}}
{{- end -}}

{{/* juicefs.imagePullPolicy: with its key, or nothing. */}}
{{- define "juicefs.imagePullPolicy" -}}
{{- with .Values.image.pullPolicy | default .Values.global.image.pullPolicy -}}
imagePullPolicy: {{ . }}
{{- end -}}
{{- end -}}

{{/* juicefs.imagePullSecrets: with its key, or nothing. */}}
{{- define "juicefs.imagePullSecrets" -}}
{{- with .Values.global.imagePullSecrets -}}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* juicefs.namespace: where the services run. */}}
{{- define "juicefs.namespace" -}}
{{ .Release.Namespace }}
{{- end -}}

{{/* juicefs.mountNamespace: where mount pods and jobs run. */}}
{{- define "juicefs.mountNamespace" -}}
{{ .Values.global.mountNamespace | default .Release.Namespace }}
{{- end -}}

{{/* juicefs.namespaceEnv: NAMESPACE, the mount namespace, as an environment variable.
Read from the pod unless set, so that rendered manifests can be moved to another
namespace by kustomize. */}}
{{- define "juicefs.namespaceEnv" -}}
- name: NAMESPACE
  {{- if .Values.global.mountNamespace }}
  value: {{ .Values.global.mountNamespace | quote }}
  {{- else }}
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
  {{- end }}
{{- end -}}

{{/* juicefs.fieldEnv: environment variables from the pod's own fields. Takes a dict
of name to field path. */}}
{{- define "juicefs.fieldEnv" -}}
{{- $env := list -}}
{{- range $name, $path := . -}}
{{- $env = append $env (dict "name" $name "valueFrom" (dict "fieldRef" (dict "fieldPath" $path))) -}}
{{- end -}}
{{- toYaml $env -}}
{{- end -}}

{{/* juicefs.csiDir: the directory of the driver's CSI socket on the host. */}}
{{- define "juicefs.csiDir" -}}
{{ trimSuffix "/" .Values.global.kubeletDir }}/csi-plugins/{{ .Values.global.driverName }}
{{- end -}}

{{/* juicefs.unprivileged: the security context of a container that needs nothing. */}}
{{- define "juicefs.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end -}}

{{/* juicefs.serviceAccountName: of the chart's own pods. */}}
{{- define "juicefs.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (printf "juicefs-csi-%s-sa" .Chart.Name) -}}
{{- end -}}

{{/* juicefs.scheduling: where the pods of a chart may run, and before whom; nothing
when no such value is set. */}}
{{- define "juicefs.scheduling" -}}
{{- $set := dict -}}
{{- range $key := list "priorityClassName" "nodeSelector" "affinity" "tolerations" -}}
{{- with index $.Values $key -}}
{{- $_ := set $set $key . -}}
{{- end -}}
{{- end -}}
{{- with $set -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* juicefs.probes: liveness and readiness of a service on its metrics port. */}}
{{- define "juicefs.probes" -}}
livenessProbe:
  httpGet:
    path: /healthz
    port: {{ . }}
  initialDelaySeconds: 10
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 5
readinessProbe:
  httpGet:
    path: /healthz
    port: {{ . }}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}

{{/* juicefs.spread: replicas of a service prefer different nodes. */}}
{{- define "juicefs.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "juicefs.selector" . | nindent 8 }}
{{- end -}}

{{/* juicefs.podDisruptionBudget: of a service with several replicas. */}}
{{- define "juicefs.podDisruptionBudget" -}}
{{- if and .Values.podDisruptionBudget.enabled (gt (int .Values.replicas) 1) }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: juicefs-csi-{{ .Chart.Name }}
  namespace: {{ include "juicefs.namespace" . }}
  labels:
    {{- include "juicefs.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ .Values.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "juicefs.selector" . | nindent 6 }}
{{- end }}
{{- end -}}
