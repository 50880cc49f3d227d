{{/* controller.mountmgrImage: the image with the launcher. */}}
{{- define "controller.mountmgrImage" -}}
{{- $tag := .Values.global.image.tag | default .Chart.AppVersion -}}
{{- include "juicefs.imageOf" (dict "root" . "image" .Values.mountmgrImage "defaultTag" $tag) -}}
{{- end -}}
