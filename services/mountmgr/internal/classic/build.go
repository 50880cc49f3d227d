package classic

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/keeper"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
)

// Names that the existing driver gives; MountIDAnnotation is ours.
const (
	UpgradeUUIDLabel  = "juicefs-upgrade-uuid"
	MountIDAnnotation = "csi.juicefs.com/mount-id"
	Finalizer         = "juicefs.com/finalizer"

	containerName  = "jfs-mount"
	secretLabel    = "juicefs/secret"
	keeperVariable = "JFS_SUPER_COMM"
	stateVariable  = "_FUSE_STATE_PATH"
	// podTemp is where the pod sees the exchange directory.
	podTemp = "/tmp"
	// stateName is the file in the exchange directory that a successor reads
	// what its predecessor has left from.
	stateName = "state-handed-over.json"
	// specDir and specKey are where jfs-launch finds what to run.
	specDir = "/etc/jfs-launch"
	specKey = "spec.json"
)

// SecretName is the Secret that the existing driver gives the mount pods of a
// unique id their credentials from.
func SecretName(uniqueID string) string {
	return strings.ToLower(strings.ReplaceAll("juicefs-"+uniqueID+"-secret", "_", "-"))
}

// build is a privileged mount pod with the labels and annotations of the existing
// driver.
func (n *Node) build(s Start) (*corev1.Pod, error) {
	s.Spec.Node, s.Spec.Namespace = n.options.Node, n.options.Namespace
	if !s.ForExistingDriver {
		s.Spec.Launcher = n.options.Launcher
	}
	shape := &s.Spec.Settings.Pod
	shape.RunAsUser, shape.RunAsGroup, shape.FSGroup = nil, nil, nil // Who mounts is root.
	pod, err := mountpod.Build(s.Spec)
	if err != nil {
		return nil, err
	}
	// Whoever manages these pods finds them by other labels; see MountIDAnnotation.
	delete(pod.Labels, mountpod.MountIDLabel)
	pod.Labels[UpgradeUUIDLabel] = s.Target.Client.Exchange
	pod.Annotations[MountIDAnnotation] = s.Target.MountID
	pod.Finalizers = []string{Finalizer}
	pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	container := &pod.Spec.Containers[0]
	yes, root := true, int64(0)
	container.SecurityContext = &corev1.SecurityContext{Privileged: &yes, RunAsUser: &root}
	container.Env = append(slices.Clone(container.Env), environment(s)...)
	n.addMounts(pod, s)
	if s.ForExistingDriver {
		asExistingDriver(pod, s)
	} else {
		container.Command = launcherCommand(shape.Env)
		addSecret(pod, "spec", specDir, s.Target.Client.SecretName, []corev1.KeyToPath{{Key: specKey, Path: specKey}})
	}
	return pod, nil
}

// launcherCommand runs jfs-launch, which hands on the variables that Kubernetes looks up.
func launcherCommand(variables []corev1.EnvVar) []string {
	argv := []string{volume.LauncherPath, "classic", "--spec=" + path.Join(specDir, specKey)}
	if len(variables) == 0 {
		return argv
	}
	names := make([]string, 0, len(variables))
	for _, variable := range variables {
		names = append(names, variable.Name)
	}
	return append(argv, "--pass-env="+strings.Join(names, ","))
}

// asExistingDriver replaces jfs-launch by the script that the existing driver
// looks for in its mount pods. Whatever is interpolated is quoted.
func asExistingDriver(pod *corev1.Pod, s Start) {
	ours := []string{launcher.VolumeName, "launcher"}
	container := &pod.Spec.Containers[0]
	pod.Spec.Volumes = slices.DeleteFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return slices.Contains(ours, v.Name) })
	container.VolumeMounts = slices.DeleteFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool {
		return slices.Contains(ours, m.Name)
	})
	container.Command = []string{"sh", "-c", script(s)} // ADR 0010
	container.EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: s.Target.Client.SecretName},
	}}}
	if files := s.Spec.Settings.Files; len(files) > 0 {
		addSecret(pod, "files", volume.FilesDir, s.Target.Client.SecretName, fileItems(files))
	}
}

func addSecret(pod *corev1.Pod, name, directory, secret string, items []corev1.KeyToPath) {
	mode := int32(0o400)
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		Secret: &corev1.SecretVolumeSource{SecretName: secret, Items: items, DefaultMode: &mode},
	}})
	container := &pod.Spec.Containers[0]
	container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: directory, ReadOnly: true})
}

// script is what the pod's shell runs: the stages, and the client in its place.
func script(s Start) string {
	settings := s.Spec.Settings.WithMountPoint(path.Join(podMountBase, path.Base(s.Target.MountPath)))
	var lines []string
	for _, stage := range settings.Stages {
		if s.SkipStages || strings.HasSuffix(stage.Argv[0], "/jfs-launch") {
			continue // A stage of jfs-launch, which is not in this pod.
		}
		// The directory of a new volume is for applications of any user.
		line := "(umask 000; " + quoteAll(stage.Argv) + ")"
		if len(stage.IgnoreOutput) > 0 {
			line += " || true" // What may be overlooked there is judged by its output.
		}
		lines = append(lines, line)
	}
	if len(lines) > 0 {
		lines = []string{strings.Join(append([]string{"set -e"}, lines...), "\n")}
	}
	return strings.Join(append(lines, "exec "+quoteAll(settings.Client)), "\n")
}

func environment(s Start) []corev1.EnvVar {
	env := []corev1.EnvVar{
		{Name: "JFS_FOREGROUND", Value: "1"},
		{Name: "JFS_INSIDE_CONTAINER", Value: "1"},
		{Name: keeperVariable, Value: path.Join(podTemp, keeper.SocketName)},
	}
	if s.SessionID != 0 {
		env = append(env, corev1.EnvVar{Name: "_JFS_META_SID", Value: strconv.FormatUint(s.SessionID, 10)})
	}
	if !s.Fresh {
		env = append(env, corev1.EnvVar{Name: stateVariable, Value: path.Join(podTemp, stateName)})
	}
	return env
}

// addMounts adds what a client needs that mounts by itself.
func (n *Node) addMounts(pod *corev1.Pod, s Start) {
	container := &pod.Spec.Containers[0]
	both := corev1.MountPropagationBidirectional
	add := func(name, hostPath, mountPath string, kind corev1.HostPathType, propagation *corev1.MountPropagationMode) {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: hostPath, Type: &kind},
		}})
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{
			Name: name, MountPath: mountPath, MountPropagation: propagation,
		})
	}
	add("jfs-dir", n.options.MountRoot, podMountBase, corev1.HostPathDirectoryOrCreate, &both)
	add("jfs-fuse-fd", path.Join(n.options.ExchangeDir, s.Target.Client.Exchange), podTemp, corev1.HostPathDirectoryOrCreate, nil)
}

func fileItems(files []volume.File) []corev1.KeyToPath {
	items := make([]corev1.KeyToPath, 0, len(files))
	for _, file := range files {
		items = append(items, corev1.KeyToPath{Key: path.Base(file.Path), Path: path.Base(file.Path)})
	}
	return items
}

// secret holds the credentials of the pod: the whole spec for jfs-launch, or
// variables and files for a script.
func (n *Node) secret(s Start) (*corev1.Secret, error) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Name: s.Target.Client.SecretName, Namespace: n.options.Namespace, Labels: map[string]string{secretLabel: "true"},
	}}
	if s.ForExistingDriver {
		secret.Data = variables(s)
		return secret, nil
	}
	spec := s.Spec.Settings.LaunchSpec(s.Target.MountID, path.Join(podMountBase, path.Base(s.Target.MountPath)))
	if s.SkipStages {
		spec.Stages = nil
	}
	text, err := protojson.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode the spec of mount %s: %w", s.Target.MountID, err)
	}
	secret.Data = map[string][]byte{specKey: text}
	return secret, nil
}

func variables(s Start) map[string][]byte {
	data := make(map[string][]byte)
	for _, variable := range s.Spec.Settings.Env {
		data[variable.Name] = []byte(variable.Value)
	}
	for _, file := range s.Spec.Settings.Files {
		data[path.Base(file.Path)] = file.Content
	}
	for key, value := range s.Credentials {
		if slices.Contains([]string{"metaurl", "token", "passphrase", "encrypt_rsa_key"}, key) {
			data[key] = []byte(value)
		}
	}
	return data
}

// encodeStrings cannot fail for a map of strings.
func encodeStrings(values map[string]string) string {
	encoded, err := json.Marshal(maps.Clone(values))
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(encoded)
}
