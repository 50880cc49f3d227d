{{/* juicefs-csi.moved: fails for keys of the existing driver's chart that have
another place in this one, with all of them at once. */}}
{{- define "juicefs-csi.moved" -}}
{{- $places := dict
  "dashboardImage" "set dashboard.image"
  "defaultMountImage" "set global.defaultMountImage"
  "driverName" "set global.driverName"
  "image" "set global.image, or image of a service"
  "imagePullSecrets" "set global.imagePullSecrets"
  "jfsConfigDir" "the directory is fixed, remove it"
  "jfsMountDir" "the directory is fixed, /var/lib/juicefs/volume, remove it"
  "kubeletDir" "set global.kubeletDir"
  "metrics" "every service serves metrics, set metricsPort of a service"
  "serviceAccount" "set serviceAccount of a service"
  "sidecars" "set controller.stockSidecars"
  "snapshot" "not supported by this release, remove it"
  "validatingWebhook" "not supported by this release, remove it"
  "webhook" "not supported by this release, remove it"
-}}
{{- $faults := list -}}
{{- range $key := keys .Values.AsMap | sortAlpha -}}
{{- if hasKey $places $key -}}
{{- $faults = append $faults (printf "%s: %s" $key (get $places $key)) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.mountMode "process") (ne (.Values.mountmgr.mountMode | default "pod") "process") -}}
{{- $faults = append $faults "mountMode: set mountmgr.mountMode to process as well" -}}
{{- end -}}
{{- if $faults -}}
{{- fail (printf "values of another chart:\n  %s" (join "\n  " $faults)) -}}
{{- end -}}
{{- end -}}
