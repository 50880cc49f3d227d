package reattach

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/juicefs-csi/driver/libs/mountinfo"
)

// owner is the volume of a pod that a target belongs to.
type owner struct {
	podDir, pod, volume string
}

// ownerOf reads <kubelet>/pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount;
// false for any other path.
func ownerOf(kubeletDir, target string) (owner, bool) {
	pods := filepath.Join(kubeletDir, "pods") + "/"
	rest, found := strings.CutPrefix(target, pods)
	parts := strings.Split(rest, "/")
	if !found || len(parts) != 5 || parts[1] != "volumes" || parts[0] == "" {
		return owner{}, false
	}
	return owner{podDir: pods + parts[0], pod: parts[0], volume: parts[3]}, true
}

// PodUIDs are the pods that targets belong to.
func PodUIDs(kubeletDir string, targets []string) []string {
	var uids []string
	for _, target := range targets {
		if owner, ok := ownerOf(kubeletDir, target); ok && !slices.Contains(uids, owner.pod) {
			uids = append(uids, owner.pod)
		}
	}
	return uids
}

// Paths are the mount points that show a lost connection, of those that belong
// to targets: they themselves, and the directories of their volumes that
// kubelet binds for subPath.
func Paths(entries []mountinfo.Entry, connection Connection, kubeletDir string, targets []string) []string {
	var directories []string
	for _, target := range targets {
		if owner, ok := ownerOf(kubeletDir, target); ok {
			directories = append(directories, filepath.Join(owner.podDir, "volume-subpaths", owner.volume)+"/")
		}
	}
	var paths []string
	for _, entry := range entries {
		below := func(directory string) bool { return strings.HasPrefix(entry.Path, directory) }
		belongs := slices.Contains(targets, entry.Path) || slices.ContainsFunc(directories, below)
		if belongs && connection.shows(entry) && !slices.Contains(paths, entry.Path) {
			paths = append(paths, entry.Path)
		}
	}
	return paths
}

// Visible are those of the paths at which a lost connection is what one sees.
func Visible(entries []mountinfo.Entry, connection Connection, paths []string) []string {
	var visible []string
	for _, path := range paths {
		if top, ok := topmost(entries, path); ok && connection.shows(top) {
			visible = append(visible, path)
		}
	}
	return visible
}
