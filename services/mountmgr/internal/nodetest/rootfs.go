package nodetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// rootFS makes a tmpfs with the client, /tmp, /dev/null and the pod's volumes.
func (k *Kubelet) rootFS(pod *corev1.Pod, client string) (string, error) {
	podDir := filepath.Join(k.Dir, "pods", string(pod.UID))
	root := filepath.Join(podDir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil { //nolint:gosec // as in an image
		return "", err
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, ""); err != nil {
		return "", fmt.Errorf("mount root of pod %s: %w", pod.Name, err)
	}
	for _, dir := range []string{"tmp", "dev", "proc", "root", "usr/local/bin", "usr/bin", "bin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil { //nolint:gosec // as in an image
			return "", err
		}
	}
	err := errors.Join(
		os.Chmod(filepath.Join(root, "tmp"), 0o1777), //nolint:gosec // as in an image
		bind(client, filepath.Join(root, "usr/local/bin/juicefs"), true),
		os.Symlink("/usr/local/bin/juicefs", filepath.Join(root, "bin/mount.juicefs")),
		bind("/dev/null", filepath.Join(root, "dev/null"), false),
		bind("/dev/urandom", filepath.Join(root, "dev/urandom"), false),
	)
	if err == nil && isPrivileged(pod) {
		err = systemDirectories(root)
	}
	if err != nil {
		return "", err
	}
	if err := k.writeSecrets(pod, podDir); err != nil {
		return "", err
	}
	return root, volumes(pod, podDir, root)
}

// systemDirectories give a privileged pod the devices, and the programs that its
// script and its client call.
func systemDirectories(root string) error {
	if err := bind("/dev/fuse", filepath.Join(root, "dev/fuse"), false); err != nil {
		return err
	}
	for _, dir := range []string{"/usr/bin", "/usr/lib", "/lib", "/lib64", "/usr/lib64"} {
		resolved, err := filepath.EvalSymlinks(dir)
		if os.IsNotExist(err) {
			continue
		}
		if err == nil {
			err = bind(resolved, filepath.Join(root, dir), true)
		}
		if err != nil {
			return err
		}
	}
	for _, program := range []string{"sh", "df", "stat", "umount"} {
		if err := os.Symlink("/usr/bin/"+program, filepath.Join(root, "bin", program)); err != nil {
			return err
		}
	}
	return nil
}

func volumes(pod *corev1.Pod, podDir, root string) error {
	sources := make(map[string]string)
	for _, volume := range pod.Spec.Volumes {
		if volume.HostPath != nil {
			sources[volume.Name] = volume.HostPath.Path
			continue
		}
		sources[volume.Name] = filepath.Join(podDir, "volumes", "kubernetes.io~empty-dir", volume.Name)
	}
	for _, mount := range pod.Spec.Containers[0].VolumeMounts {
		source := sources[mount.Name]
		if err := os.MkdirAll(source, 0o777); err != nil { //nolint:gosec // as kubelet does
			return err
		}
		if strings.HasPrefix(source, podDir) {
			if err := os.Chmod(source, 0o777); err != nil { //nolint:gosec // as kubelet does
				return err
			}
		}
		if err := bind(source, filepath.Join(root, mount.MountPath), mount.ReadOnly); err != nil {
			return err
		}
	}
	return nil
}
