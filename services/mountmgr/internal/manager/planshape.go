package manager

import (
	"encoding/json"
	"strings"

	"github.com/juicefs-csi/driver/libs/volume"
)

// describeShape lists the settings of a pod that most pods do not have; a
// setting that is empty is none. What has parts is shown as JSON.
func describeShape(shape volume.PodShape) map[string]value {
	values := make(map[string]value)
	for _, setting := range []struct {
		field string
		set   any
	}{
		{"runAsUser", shape.RunAsUser},
		{"runAsGroup", shape.RunAsGroup},
		{"fsGroup", shape.FSGroup},
		{"hostPID", shape.HostPID},
		{"hostname", shape.Hostname},
		{"dnsConfig", shape.DNSConfig},
		{"dnsPolicy", shape.DNSPolicy},
		{"livenessProbe", shape.LivenessProbe},
		{"readinessProbe", shape.ReadinessProbe},
		{"startupProbe", shape.StartupProbe},
		{"lifecycle", shape.Lifecycle},
		{"resourcePercentages", shape.ResourcePercentages},
		{"nodeSelector", shape.NodeSelector},
		{"affinity", shape.Affinity},
		{"schedulerName", shape.SchedulerName},
		{"tolerations", shape.Tolerations},
	} {
		describeValue(values, setting.field, setting.set)
	}
	for _, cache := range shape.CacheVolumes {
		describeValue(values, "cacheVolumes["+cache.Path+"]", cache.Source)
	}
	for _, own := range shape.Volumes {
		describeValue(values, "volumes["+own.Name+"]", own.VolumeSource)
	}
	for _, mount := range shape.VolumeMounts {
		describeValue(values, "volumeMounts["+mount.MountPath+"]", mount)
	}
	for _, device := range shape.VolumeDevices {
		describeValue(values, "volumeDevices["+device.DevicePath+"]", device.Name)
	}
	for _, container := range shape.InitContainers {
		describeValue(values, "initContainers["+container.Name+"]", container)
	}
	for _, variable := range shape.Env {
		describeValue(values, "env["+variable.Name+"]", variable.ValueFrom)
	}
	return values
}

// describeValue adds a setting that is not empty.
func describeValue(values map[string]value, field string, set any) {
	encoded, err := json.Marshal(set)
	if err != nil {
		return
	}
	switch text := strings.Trim(string(encoded), `"`); text {
	case "", "null", "false":
	default:
		values[field] = value{text: text}
	}
}
