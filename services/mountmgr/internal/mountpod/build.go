// Package mountpod makes, watches and deletes the mount pods of one node.
package mountpod

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
)

// Labels and annotations of mount pods, as the existing driver names them;
// MountIDLabel is ours, and so is ModeLabel, which only clients without a pod
// have.
const (
	NameLabel           = "app.kubernetes.io/name"
	NameValue           = "juicefs-mount"
	UniqueIDLabel       = "volume-id"
	HashLabel           = "juicefs-hash"
	MountIDLabel        = "csi.juicefs.com/mount-id"
	ModeLabel           = "csi.juicefs.com/client-mode"
	UniqueIDAnnotation  = "juicefs-uniqueid"
	UUIDAnnotation      = "juicefs-uuid"
	ShareModeAnnotation = "juicefs/mount-share-mode"
	DelayAnnotation     = "juicefs-delete-delay"
	DeleteAtAnnotation  = "juicefs-delete-at"
	CleanAnnotation     = "juicefs-clean-cache"
)

const (
	containerName = "jfs-mount"
	// launcherDir is where the pod sees the node's launcher directory.
	launcherDir = "/opt/juicefs-csi"
	// socketDir is where the pod sees the directory of its socket.
	socketDir = "/run/jfs-launch"
	// maxName is the longest name of a pod, which becomes a host name label
	// of 63 characters at the most.
	maxName      = 63
	maxLabel     = 63
	referenceLen = 63
)

// Spec is what a mount pod is built from.
type Spec struct {
	Name      string
	Namespace string
	Node      string
	MountID   string
	// LauncherDir is the host directory that holds jfs-launch.
	LauncherDir string
	Settings    volume.Settings
	// Targets are the present references.
	Targets []string
}

// Name is the name of a mount pod: suffix makes each attempt's own.
func Name(node, uniqueID, suffix string) string {
	base := strings.ToLower("juicefs-" + node + "-" + uniqueID)
	base = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, base)
	if limit := maxName - len(suffix) - 1; len(base) > limit {
		digest := sha256.Sum256([]byte(base))
		base = base[:limit-9] + "-" + hex.EncodeToString(digest[:4])
	}
	return strings.TrimRight(base, "-") + "-" + suffix
}

// ReferenceKey is the annotation that mirrors a reference to target.
func ReferenceKey(target string) string {
	digest := sha256.Sum256([]byte(target))
	return ("juicefs-" + hex.EncodeToString(digest[:]))[:referenceLen]
}

// Build returns the pod: no capability, no device, no mount propagation, no
// token, and no host path but the launcher, the cache and what users ask for.
// Quantities that do not parse fail with errdefs.ErrInvalidArgument.
func Build(s Spec) (*corev1.Pod, error) {
	resources, err := resourceRequirements(s.Settings.Pod.Resources)
	if err != nil {
		return nil, err
	}
	shape := s.Settings.Pod
	volumes, mounts := podVolumes(s)
	no, root := false, int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: s.Name, Namespace: s.Namespace, Labels: labels(s), Annotations: annotations(s),
		},
		Spec: corev1.PodSpec{
			NodeName:                      s.Node,
			RestartPolicy:                 corev1.RestartPolicyNever,
			ServiceAccountName:            shape.ServiceAccount,
			AutomountServiceAccountToken:  &no,
			EnableServiceLinks:            &no,
			HostNetwork:                   shape.HostNetwork,
			PriorityClassName:             shape.PriorityClass,
			TerminationGracePeriodSeconds: gracePeriod(shape),
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Volumes:                       volumes,
			Containers: []corev1.Container{{
				Name:                     containerName,
				Image:                    shape.Image,
				ImagePullPolicy:          corev1.PullPolicy(shape.ImagePullPolicy),
				Command:                  []string{launcherDir + "/jfs-launch", "serve", "--socket=" + socketDir + "/" + launcher.SocketName},
				Resources:                resources,
				VolumeMounts:             mounts,
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
				SecurityContext: &corev1.SecurityContext{
					RunAsUser:                &root,
					AllowPrivilegeEscalation: &no,
					Privileged:               &no,
					Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
					SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
				},
				Ports: metricsPort(shape),
			}},
		},
	}, nil
}

// defaultGrace is how long a mount pod that is being deleted may go on
// serving: the time to start its successor and hand over.
const defaultGrace = 60

func gracePeriod(shape volume.PodShape) *int64 {
	grace := shape.TerminationGracePeriodSeconds
	if grace == 0 {
		grace = defaultGrace
	}
	return &grace
}

func metricsPort(shape volume.PodShape) []corev1.ContainerPort {
	if shape.MetricsPort == 0 {
		return nil
	}
	return []corev1.ContainerPort{{Name: "metrics", ContainerPort: shape.MetricsPort}}
}

func labels(s Spec) map[string]string {
	l := maps.Clone(s.Settings.Pod.Labels)
	if l == nil {
		l = make(map[string]string)
	}
	l[NameLabel] = NameValue
	l[UniqueIDLabel] = labelValue(s.Settings.UniqueID)
	l[HashLabel] = s.Settings.Hash
	l[MountIDLabel] = s.MountID
	return l
}

// labelValue keeps volume handles that are no label values from failing the
// pod; the annotation has them whole.
func labelValue(value string) string {
	cleaned := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, value)
	if len(cleaned) > maxLabel {
		cleaned = cleaned[:maxLabel]
	}
	return strings.Trim(cleaned, "-_.")
}

func annotations(s Spec) map[string]string {
	a := maps.Clone(s.Settings.Pod.Annotations)
	if a == nil {
		a = make(map[string]string)
	}
	a[UniqueIDAnnotation] = s.Settings.UniqueID
	a[ShareModeAnnotation] = string(s.Settings.ShareMode)
	if s.Settings.DeleteDelay > 0 {
		a[DelayAnnotation] = s.Settings.DeleteDelay.String()
	}
	if s.Settings.CleanCache {
		a[CleanAnnotation] = "true"
	}
	for _, target := range s.Targets {
		a[ReferenceKey(target)] = target
	}
	return a
}

// podVolumes returns the volumes of the pod and where its container sees them.
func podVolumes(s Spec) ([]corev1.Volume, []corev1.VolumeMount) {
	directory := corev1.HostPathDirectory
	create := corev1.HostPathDirectoryOrCreate
	volumes := []corev1.Volume{
		{Name: launcher.VolumeName, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "launcher", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: s.LauncherDir, Type: &directory}}},
	}
	mounts := []corev1.VolumeMount{
		{Name: launcher.VolumeName, MountPath: socketDir},
		{Name: "launcher", MountPath: launcherDir, ReadOnly: true},
	}
	seen := make(map[string]bool)
	add := func(name, hostPath string) {
		if seen[hostPath] {
			return // A cache directory that the user names as a host path too.
		}
		seen[hostPath] = true
		volumes = append(volumes, corev1.Volume{
			Name:         name,
			VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: hostPath, Type: &create}},
		})
		mounts = append(mounts, corev1.VolumeMount{Name: name, MountPath: hostPath})
	}
	for i, dir := range s.Settings.Pod.CacheDirs {
		add(fmt.Sprintf("cache-%d", i), path.Clean(dir))
	}
	for i, dir := range s.Settings.Pod.HostPaths {
		add(fmt.Sprintf("host-%d", i), path.Clean(dir))
	}
	for i, secret := range s.Settings.Pod.SecretVolumes {
		name := fmt.Sprintf("secret-%d", i)
		volumes = append(volumes, corev1.Volume{
			Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret.Name}},
		})
		mounts = append(mounts, corev1.VolumeMount{Name: name, MountPath: path.Clean(secret.Path), ReadOnly: true})
	}
	return volumes, mounts
}

func resourceRequirements(r volume.Resources) (corev1.ResourceRequirements, error) {
	requests, err := resourceList("requests", r.Requests)
	if err != nil {
		return corev1.ResourceRequirements{}, err
	}
	limits, err := resourceList("limits", r.Limits)
	return corev1.ResourceRequirements{Requests: requests, Limits: limits}, err
}

func resourceList(field string, quantities map[string]string) (corev1.ResourceList, error) {
	if len(quantities) == 0 {
		return nil, nil
	}
	list := make(corev1.ResourceList, len(quantities))
	for name, text := range quantities {
		quantity, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, fmt.Errorf("resources.%s.%s: %q is no quantity: %w", field, name, text, errdefs.ErrInvalidArgument)
		}
		list[corev1.ResourceName(name)] = quantity
	}
	return list, nil
}
