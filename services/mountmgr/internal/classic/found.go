package classic

import (
	"cmp"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
)

// Found is what a mount pod of the existing driver tells of its mount.
type Found struct {
	// UniqueID is what its volumes share it by.
	UniqueID string
	// MountName is the name of the mount point in the mount directory.
	MountName string
	// Exchange names the directory that client and keeper share.
	Exchange string
	// PassesDescriptors is true for a client that knows a keeper.
	PassesDescriptors bool
	Enterprise        bool
	// Options are those of -o, as written.
	Options string
	// Format is the command juicefs format with its flags, without secrets.
	Format []string
	Image  string
	// SecretName is where the pod has its credentials from.
	SecretName string
	// Targets are the references, as the pod tells them.
	Targets []string
}

// podMountBase is where mount pods see the mount directory.
const podMountBase = "/jfs"

// Parse reads a mount pod of the existing driver; errdefs.ErrInvalidArgument
// for what is none.
func Parse(pod *corev1.Pod) (Found, error) {
	container := mountContainer(pod)
	if container == nil || len(container.Command) == 0 {
		return Found{}, fmt.Errorf("pod %s has no container %s with a command: %w", pod.Name, containerName, errdefs.ErrInvalidArgument)
	}
	mount, err := parseScript(container.Command[len(container.Command)-1])
	if err != nil {
		return Found{}, fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	found := Found{
		UniqueID:   cmp.Or(pod.Annotations[mountpod.UniqueIDAnnotation], pod.Labels[mountpod.UniqueIDLabel]),
		MountName:  path.Base(mount.path),
		Exchange:   cmp.Or(pod.Labels[UpgradeUUIDLabel], pod.Labels[mountpod.HashLabel]),
		Enterprise: mount.enterprise, Options: mount.options, Format: mount.format,
		Image: container.Image, SecretName: secretOf(container), Targets: references(pod),
		PassesDescriptors: slices.ContainsFunc(container.Env, func(e corev1.EnvVar) bool { return e.Name == keeperVariable }),
	}
	switch {
	case pod.Spec.HostPID:
		return Found{}, fmt.Errorf("pod %s has hostPID: its client can outlive its container, so nobody knows when another may take over: %w",
			pod.Name, errdefs.ErrInvalidArgument)
	case found.UniqueID == "":
		return Found{}, fmt.Errorf("pod %s has no label %s: %w", pod.Name, mountpod.UniqueIDLabel, errdefs.ErrInvalidArgument)
	case path.Dir(mount.path) != podMountBase || !isName(found.MountName):
		return Found{}, fmt.Errorf("pod %s mounts at %q, which is not in %s: %w", pod.Name, mount.path, podMountBase, errdefs.ErrInvalidArgument)
	case found.PassesDescriptors && !isName(found.Exchange):
		return Found{}, fmt.Errorf("pod %s has no usable label %s: %w", pod.Name, UpgradeUUIDLabel, errdefs.ErrInvalidArgument)
	}
	return found, nil
}

// isName says whether text is one harmless element of a path.
func isName(text string) bool {
	return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`).MatchString(text)
}

func mountContainer(pod *corev1.Pod) *corev1.Container {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == containerName {
			return &pod.Spec.Containers[i]
		}
	}
	return nil
}

func secretOf(container *corev1.Container) string {
	for _, source := range container.EnvFrom {
		if source.SecretRef != nil {
			return source.SecretRef.Name
		}
	}
	return ""
}

// references are the annotations whose key is made of their value.
func references(pod *corev1.Pod) []string {
	var targets []string
	for key, target := range pod.Annotations {
		if filepath.IsAbs(target) && filepath.Clean(target) == target && mountpod.ReferenceKey(target) == key {
			targets = append(targets, target)
		}
	}
	slices.Sort(targets)
	return targets
}

// SecretData makes the publish Secret of what the existing driver wrote into
// the Secret of its mount pod, and of the format command. Variables that users
// set themselves are among the keys there.
func (f Found) SecretData(name string, data map[string][]byte) map[string]string {
	secret := map[string]string{"name": name}
	envs := make(map[string]string)
	for key, value := range data {
		switch key {
		case "metaurl", "token", "passphrase", "encrypt_rsa_key":
			secret[key] = string(value)
		case "secretkey":
			secret["secret-key"] = string(value)
		case "secretkey2":
			secret["secret-key2"] = string(value)
		case "init_config":
			secret["initconfig"] = string(value)
		case "jfsSettings":
		default:
			// Other keys are files.
			if regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`).MatchString(key) {
				envs[key] = string(value)
			}
		}
	}
	f.addFormat(secret)
	if len(envs) > 0 {
		secret["envs"] = encodeStrings(envs)
	}
	return secret
}

// addFormat adds what the flags of juicefs format tell, but for secrets, which
// are variables there.
func (f Found) addFormat(secret map[string]string) {
	for _, word := range f.Format {
		flag, isFlag := strings.CutPrefix(word, "--")
		key, value, hasValue := strings.Cut(flag, "=")
		if !isFlag || !hasValue || strings.Contains(value, "$") {
			continue
		}
		switch key {
		case "storage", "bucket", "access-key", "block-size", "compress", "trash-days", "capacity", "inodes", "shards":
			secret[key] = value
		}
	}
}
