package volume

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// The types of cacheDirs.
const (
	cacheHostPath  = "HostPath"
	cachePVC       = "PVC"
	cacheEmptyDir  = "EmptyDir"
	cacheEphemeral = "Ephemeral"
)

// Where mount pods see their cache volumes, as in the existing driver.
const cacheRoot = "/var/jfsCache"

// cacheGather collects the places of a cache.
type cacheGather struct {
	volumes  []CacheVolume
	hostDirs []string
	counts   map[string]int
}

// add gives the volume the next path of its kind.
func (g *cacheGather) add(kind string, source corev1.VolumeSource) {
	number := g.counts[kind]
	g.counts[kind]++
	var target string
	switch {
	case kind == cachePVC:
		target = fmt.Sprintf("%s-%d", cacheRoot, number)
	case kind == cacheEmptyDir && number == 0:
		target = cacheRoot + "-emptyDir"
	case kind == cacheEmptyDir:
		target = fmt.Sprintf("%s-emptyDir-%d", cacheRoot, number)
	case kind == cacheEphemeral:
		target = fmt.Sprintf("%s-ephemeral-%d", cacheRoot, number)
	default:
		target = fmt.Sprintf("%s-inlineVolume-%d", cacheRoot, number)
	}
	g.volumes = append(g.volumes, CacheVolume{Path: target, Source: source})
}

// gatherCaches reads the attributes and cacheDirs.
func gatherCaches(attributes lookup, patch *Patch, faults *faults) *cacheGather {
	g := &cacheGather{counts: make(map[string]int)}
	for name := range strings.SplitSeq(attributes.value(attributeCachePVC), ",") {
		name = strings.TrimSpace(name)
		switch {
		case name == "":
		case !isSecretName(name):
			attributes.fault(faults, attributeCachePVC, "%q is not a name of a PersistentVolumeClaim", name)
		default:
			g.add(cachePVC, claimSource(name))
		}
	}
	if text := attributes.value(attributeCacheEmptyDir); text != "" {
		medium, limit, _ := strings.Cut(text, ":")
		source, err := emptyDirSource(medium, limit)
		if err != nil {
			attributes.fault(faults, attributeCacheEmptyDir, "%q is not of the form medium:size, such as Memory:1Gi or :10Gi", text)
		}
		g.add(cacheEmptyDir, source)
	}
	if text := attributes.value(attributeCacheInlineVolume); text != "" {
		var sources []corev1.CSIVolumeSource
		if err := json.Unmarshal([]byte(text), &sources); err != nil || slices.ContainsFunc(sources, lacksDriver) {
			attributes.fault(faults, attributeCacheInlineVolume, `is not a JSON list of CSI volumes, which looks like [{"driver": "name"}]`)
			sources = nil
		}
		for _, source := range sources {
			g.add("inline", corev1.VolumeSource{CSI: &source})
		}
	}
	for _, dir := range patch.CacheDirs {
		g.addDir(dir)
	}
	return g
}

func lacksDriver(source corev1.CSIVolumeSource) bool { return source.Driver == "" }

// addDir adds an item of cacheDirs, which ParseConfig has checked.
func (g *cacheGather) addDir(dir CacheDir) {
	switch dir.Type {
	case cacheHostPath:
		g.hostDirs = append(g.hostDirs, path.Clean(dir.Path))
	case cachePVC:
		g.add(cachePVC, claimSource(dir.Name))
	case cacheEmptyDir:
		if source, err := emptyDirSource(dir.Medium, dir.SizeLimit); err == nil {
			g.add(cacheEmptyDir, source)
		}
	case cacheEphemeral:
		if source, err := ephemeralSource(dir); err == nil {
			g.add(cacheEphemeral, source)
		}
	}
}

func claimSource(name string) corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
}

// emptyDirSource needs no limit.
func emptyDirSource(medium, limit string) (corev1.VolumeSource, error) {
	source := &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMedium(medium)}
	if medium != "" && medium != string(corev1.StorageMediumMemory) && !strings.HasPrefix(medium, string(corev1.StorageMediumHugePages)) {
		return corev1.VolumeSource{EmptyDir: source}, strconv.ErrSyntax
	}
	if limit == "" {
		return corev1.VolumeSource{EmptyDir: source}, nil
	}
	quantity, err := resource.ParseQuantity(limit)
	if err == nil {
		source.SizeLimit = &quantity
	}
	return corev1.VolumeSource{EmptyDir: source}, err
}

func ephemeralSource(dir CacheDir) (corev1.VolumeSource, error) {
	storage, err := resource.ParseQuantity(dir.Storage)
	if err != nil {
		return corev1.VolumeSource{}, err
	}
	modes := dir.AccessModes
	if len(modes) == 0 {
		modes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	return corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
		VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      modes,
			StorageClassName: dir.StorageClassName,
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: storage}},
		}},
	}}, nil
}

// placeCache decides where the client caches: in the directories of its option,
// in those of the ConfigMap, and in cache volumes; where nobody names one, in
// the default directory of the host.
func (o options) placeCache(in Inputs, gathered *cacheGather, shape *PodShape, faults *faults) {
	shape.CacheVolumes = gathered.volumes
	written := o.value("cache-dir")
	others := len(gathered.volumes)+len(gathered.hostDirs) > 0
	if written == "" && !others && in.Defaults.CacheDir != "" {
		written = in.Defaults.CacheDir
		o.set(option{key: "cache-dir", value: written, hasValue: true})
	}
	named := slices.Concat(readCacheDirs(written, faults), gathered.hostDirs)
	list := slices.Concat(splitCacheDirs(written, others), gathered.hostDirs)
	for _, dir := range named {
		if shape.mountsOver(dir) {
			continue
		}
		shape.CacheDirs = append(shape.CacheDirs, shape.ownCacheDir(dir))
		for i := range list {
			if path.Clean(list[i]) == dir && shape.UID() != 0 {
				list[i] = shape.ownCacheDir(dir)
			}
		}
	}
	slices.Sort(shape.CacheDirs)
	shape.CacheDirs = slices.Compact(shape.CacheDirs)
	for _, volume := range gathered.volumes {
		list = append(list, volume.Path)
	}
	if (others || shape.UID() != 0) && len(list) > 0 {
		o.set(option{key: "cache-dir", value: strings.Join(list, ":"), hasValue: true})
	}
}

// mountsOver says whether the directory is in a volume of the user's, and not
// the host's.
func (s *PodShape) mountsOver(dir string) bool {
	return slices.ContainsFunc(s.VolumeMounts, func(mount corev1.VolumeMount) bool { return isBelow(dir, path.Clean(mount.MountPath)) })
}

// ownCacheDir is the part of a cache directory of the host that the pod gets.
func (s *PodShape) ownCacheDir(dir string) string {
	if s.UID() == 0 {
		return dir
	}
	return UserCacheDir(dir, s.UID())
}

// UserCacheDir is the part of a cache directory that belongs to one user: the
// directory itself may serve mounts of others, and only root could enter
// another's.
func UserCacheDir(dir string, uid int64) string {
	return path.Join(dir, "uid-"+strconv.FormatInt(uid, 10))
}

// splitCacheDirs are the places of the cache-dir option as they are written;
// besides other places there is no cache in memory.
func splitCacheDirs(written string, others bool) []string {
	var list []string
	for dir := range strings.SplitSeq(written, ":") {
		dir = strings.TrimSpace(dir)
		if dir != "" && (dir != "memory" || !others) {
			list = append(list, dir)
		}
	}
	return list
}

// readCacheDirs are the directories of the cache-dir option.
func readCacheDirs(written string, faults *faults) []string {
	var dirs []string
	for dir := range strings.SplitSeq(written, ":") {
		dir = strings.TrimSpace(dir)
		switch {
		case dir == "" || dir == "memory":
		case strings.ContainsAny(dir, "*?["):
			faults.add(sourceOption, "cache-dir", "%q holds a wildcard; name every directory, separated by colons", dir)
		case !isCleanAbsolute(dir) || dir == "/":
			faults.add(sourceOption, "cache-dir", "%q is not an absolute path without . and ..", dir)
		default:
			dirs = append(dirs, path.Clean(dir))
		}
	}
	return dirs
}

// WithoutCache are the inputs of a client that keeps no cache: nothing of the
// volume or the ConfigMap gives it one. Its option cache-dir is left alone.
func (in Inputs) WithoutCache() Inputs {
	in.Attributes = maps.Clone(in.Attributes)
	in.Claim.Annotations = maps.Clone(in.Claim.Annotations)
	for _, key := range []string{attributeCachePVC, attributeCacheEmptyDir, attributeCacheInlineVolume} {
		delete(in.Attributes, key)
		delete(in.Claim.Annotations, key)
	}
	in.Config.MountPodPatch = slices.Clone(in.Config.MountPodPatch)
	for i := range in.Config.MountPodPatch {
		in.Config.MountPodPatch[i].CacheDirs = nil
	}
	return in
}
