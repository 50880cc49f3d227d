package processhost

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/cgroup"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientdir"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/sandbox"
)

// Where the process sees what a mount pod would see there.
const (
	launcherDir = "/opt/juicefs-csi"
	socketDir   = "/run/jfs-launch"
	logName     = "log"
)

// rootSize bounds /tmp and all else that a process can write outside of its
// cache, in bytes: the state of a hand-over may have that size.
const rootSize = 256 << 20

// maxFile bounds the files of /etc that are copied, in bytes.
const maxFile = 1 << 20

// command is what runs in the sandbox.
func command() []string {
	return []string{
		launcherDir + "/jfs-launch", "serve",
		"--socket=" + socketDir + "/" + launcher.SocketName, "--log=" + socketDir + "/" + logName,
	}
}

// box is what the process of spec sees.
func (h *Host) box(id string, spec mountpod.Spec) (sandbox.Box, error) {
	shape := spec.Settings.Pod
	if len(shape.SecretVolumes) > 0 {
		return sandbox.Box{}, fmt.Errorf("configs: Secret %s cannot be mounted in mount mode process: remove the key configs of the Secret: %w",
			shape.SecretVolumes[0].Name, errdefs.ErrInvalidArgument)
	}
	box := sandbox.Box{
		Root: h.rootDir(id), Size: rootSize, Namespaces: h.Namespaces,
		Files: make(map[string][]byte), Links: make(map[string]string),
		Binds: []sandbox.Bind{
			{Source: spec.LauncherDir, Target: launcherDir, ReadOnly: true},
			{Source: h.socketDir(id), Target: socketDir},
		},
	}
	if err := h.addClient(&box, shape.Image); err != nil {
		return sandbox.Box{}, err
	}
	for _, name := range []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/localtime"} {
		if err := addFile(&box, name); err != nil {
			return sandbox.Box{}, err
		}
	}
	seen := make(map[string]bool)
	for _, dir := range append(append([]string(nil), shape.CacheDirs...), shape.HostPaths...) {
		if dir = path.Clean(dir); seen[dir] {
			continue // A cache directory that the user names as a host path too.
		}
		if err := checkHostPath(dir); err != nil {
			return sandbox.Box{}, err
		}
		seen[dir] = true
		box.Binds = append(box.Binds, sandbox.Bind{Source: dir, Target: dir, Create: true})
	}
	return box, nil
}

// checkHostPath refuses directories that would cover what the process needs, or
// lead around what it is not shown.
func checkHostPath(dir string) error {
	for _, ours := range []string{"/proc", launcherDir, socketDir} {
		if within(dir, ours) || within(ours, dir) {
			return fmt.Errorf("host directory %s cannot be shown to a client in mount mode process, which needs %s: name another one: %w",
				dir, ours, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// within tells whether a clean path is another one or below it.
func within(name, parent string) bool {
	return name == parent || strings.HasPrefix(name, strings.TrimSuffix(parent, "/")+"/")
}

// addFile copies a file, so that it stays when the mount manager's container
// goes. One that is missing is left out.
func addFile(box *sandbox.Box, name string) error {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!info.Mode().IsRegular() || info.Size() > maxFile) {
		return nil
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("copy for client: %w", err)
	}
	box.Files[name] = content
	return nil
}

// addClient shows the client of a mount image and what it needs, at the paths
// of the image.
func (h *Host) addClient(box *sandbox.Box, image string) error {
	dir, err := clientdir.Path(h.ClientDir, image)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return fmt.Errorf("no client of image %s on this node: %s is missing or empty: "+
			"run `jfs-launch copy --image=%s %s` in that image to fill it: %w", image, dir, image, h.ClientDir, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return fmt.Errorf("client of image %s: %w", image, err)
	}
	for _, entry := range entries {
		if err := addEntry(box, dir, "/"+entry.Name()); err != nil {
			return fmt.Errorf("client of image %s: %w", image, err)
		}
	}
	return nil
}

// addEntry shows an entry of a client's directory. Directories that have other
// contents as well are gone through.
func addEntry(box *sandbox.Box, dir, name string) error {
	source := filepath.Join(dir, name)
	info, err := os.Lstat(source)
	if err != nil {
		return err
	}
	switch {
	case slices.Contains([]string{"/proc", "/dev", "/tmp", "/run", "/sys"}, name):
		return nil
	case info.Mode().Type() == fs.ModeSymlink:
		box.Links[name], err = os.Readlink(source)
		return err
	case name != "/etc" || !info.IsDir():
		box.Binds = append(box.Binds, sandbox.Bind{Source: source, Target: name, ReadOnly: true})
		return nil
	}
	entries, err := os.ReadDir(source)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := addEntry(box, dir, path.Join(name, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// limitsOf are the limits that the settings name, which mount pods would have.
func limitsOf(spec mountpod.Spec) (cgroup.Limits, error) {
	var limits cgroup.Limits
	for name, text := range spec.Settings.Pod.Resources.Limits {
		quantity, err := resource.ParseQuantity(text)
		if err != nil {
			return cgroup.Limits{}, fmt.Errorf("resources.limits.%s: %q is no quantity: %w", name, text, errdefs.ErrInvalidArgument)
		}
		switch name {
		case "memory":
			limits.Memory = quantity.Value()
		case "cpu":
			limits.MilliCPU = min(quantity.MilliValue(), math.MaxInt32)
		}
	}
	return limits, nil
}
