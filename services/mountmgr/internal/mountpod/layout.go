package mountpod

import (
	"fmt"
	"maps"
	"path"

	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/volume"
)

// layout is the volumes of a pod and where its container sees them.
type layout struct {
	volumes []corev1.Volume
	mounts  []corev1.VolumeMount
	// names and paths are those that users took; ours give way.
	names map[string]bool
	paths map[string]bool
}

// selectedNode tells the controller of claims the node of a pod that the
// scheduler never sees.
const selectedNode = "volume.kubernetes.io/selected-node"

func layOut(s Spec) *layout {
	shape := s.Settings.Pod
	l := &layout{names: make(map[string]bool), paths: make(map[string]bool)}
	for _, own := range shape.Volumes {
		l.names[own.Name] = true
	}
	for _, own := range shape.VolumeMounts {
		l.paths[path.Clean(own.MountPath)] = true
	}
	l.add(volume.SocketVolume, volume.SocketDir, false, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	l.add(volume.LauncherName, volume.LauncherDir, true, s.Launcher.source(s.LauncherDir))
	for i, dir := range shape.CacheDirs {
		l.add(fmt.Sprintf("cache-%d", i), dir, false, hostPath(dir))
	}
	for i, cache := range shape.CacheVolumes {
		source := cache.Source
		if source.Ephemeral != nil && len(shape.NodeSelector) == 0 {
			source.Ephemeral = onNode(source.Ephemeral, s.Node)
		}
		l.add(fmt.Sprintf("cache-volume-%d", i), cache.Path, false, source)
	}
	for i, dir := range shape.HostPaths {
		l.add(fmt.Sprintf("host-%d", i), dir, false, hostPath(dir))
	}
	for i, secret := range shape.SecretVolumes {
		l.add(fmt.Sprintf("secret-%d", i), secret.Path, true,
			corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret.Name}})
	}
	l.volumes = append(l.volumes, shape.Volumes...)
	l.mounts = append(l.mounts, shape.VolumeMounts...)
	return l
}

// add mounts a volume of ours, unless something is at its path: a cache
// directory that the user names as a host path too, or the user's own volume.
func (l *layout) add(name, target string, readOnly bool, source corev1.VolumeSource) {
	target = path.Clean(target)
	if l.paths[target] {
		return
	}
	l.paths[target] = true
	for l.names[name] {
		name += "-jfs"
	}
	l.names[name] = true
	l.volumes = append(l.volumes, corev1.Volume{Name: name, VolumeSource: source})
	l.mounts = append(l.mounts, corev1.VolumeMount{Name: name, MountPath: target, ReadOnly: readOnly})
}

func hostPath(dir string) corev1.VolumeSource {
	create := corev1.HostPathDirectoryOrCreate
	return corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path.Clean(dir), Type: &create}}
}

func onNode(source *corev1.EphemeralVolumeSource, node string) *corev1.EphemeralVolumeSource {
	template := source.VolumeClaimTemplate.DeepCopy()
	template.Annotations = maps.Clone(template.Annotations)
	if template.Annotations == nil {
		template.Annotations = make(map[string]string)
	}
	template.Annotations[selectedNode] = node
	return &corev1.EphemeralVolumeSource{VolumeClaimTemplate: template}
}
