package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Compiled once: settings are resolved at every publish.
var (
	safeID  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$`)
	notInID = regexp.MustCompile(`[^A-Za-z0-9]+`)
)

// MountPoint stands for the path of the kernel mount, which Resolve cannot
// know, since every mount gets a path of its own. The client takes it for a
// name only: it never opens it.
const MountPoint = "${MOUNT_POINT}"

// Resolve derives the settings of a mount. It changes none of its inputs. Wrong
// inputs give an error that is errdefs.ErrInvalidArgument and names all faults
// with their source and key; it never holds a value of the Secret.
func Resolve(in Inputs) (Settings, error) {
	edition, err := editionOf(in.Secret)
	if err != nil {
		return Settings{}, err
	}
	var faults faults
	settings := resolve(in, edition, &faults)
	if err := faults.err(); err != nil {
		return Settings{}, err
	}
	if in.App.hasFacts() {
		in.App = App{Object: in.App.Object}
		settings.Hash = resolve(in, edition, &faults).Hash
	}
	return settings, nil
}

// editionOf tells the editions apart as the existing driver does.
func editionOf(secret map[string]string) (Edition, error) {
	keys := canonicalSecret(secret)
	switch {
	case keys["metaurl"] != "":
		return Community, nil
	case keys["token"] != "":
		return Enterprise, nil
	}
	var faults faults
	faults.add(sourceSecret, "metaurl", "is missing: the address of the metadata engine")
	if keys["name"] == "" {
		faults.add(sourceSecret, "name", "is missing: the name of the JuiceFS file system")
	}
	return "", faults.err()
}

func resolve(in Inputs, edition Edition, faults *faults) Settings {
	checkAttributes(in.Attributes, faults)
	attributes := lookupOf(in)
	secret := readSecret(in, edition, faults)
	patch := patchFor(in)

	settings := Settings{Edition: edition, FileSystem: secret.name, Files: secret.files}
	settings.ShareMode, settings.UniqueID = identify(in, secret.name)
	readLife(attributes, &settings, faults)
	settings.Pod = shapeFromAttributes(in, edition, attributes, faults)
	patch.applyTo(&settings.Pod, edition)
	patch.applyEnv(secret.env, &settings.Pod)
	settings.Pod.HostNetwork = settings.Pod.HostNetwork || in.Defaults.HostNetwork
	settings.Pod.Hostname = hostname(patch.HostnameKey, settings.UniqueID)
	settings.Pod.NodeSelector = nodeSelector(in)
	settings.Pod.applyApp(in.App)
	settings.Pod.SecretVolumes = secret.secrets
	readLifeAnnotations(settings.Pod.Annotations, &settings, faults)
	settings.classify()
	settings.Env = envList(secret.env)

	opts := gatherOptions(in, &patch, faults)
	opts.check(faults)
	settings.place(in, opts)
	opts.complete(in, &settings, faults)
	opts.placeCache(in, gatherCaches(attributes, &patch, faults), &settings.Pod, faults)
	settings.ReadOnly = opts.has("ro") || opts.has("read-only")
	settings.Kernel = opts.kernelMount(secret.name, faults)
	settings.Pod.MetricsPort = opts.metricsPort(faults)

	settings.Stages = secret.stages
	list := strings.Join(append(secret.options, opts.list()), ",")
	settings.Client = slices.Concat(secret.mount, []string{MountPoint, "-o", strings.TrimSuffix(list, ",")})
	settings.Hash = settings.hash()
	settings.addQuota(in, secret.quota, opts.value("subdir"), faults)
	settings.fill(templates(in))
	return settings
}

// gatherOptions joins what the StorageClass, the PersistentVolume and the
// ConfigMap say; the later ones win.
func gatherOptions(in Inputs, patch *Patch, faults *faults) options {
	opts := options{}
	opts.addList(in.Attributes[AttributeMountOptions], faults)
	for _, list := range in.MountOptions {
		opts.addList(list, faults)
	}
	for _, list := range patch.MountOptions {
		opts.addList(list, faults)
	}
	return opts
}

// place decides where in the file system the volume is. The mount of one volume
// has its directory as the root; a shared mount has all, and targets show a
// directory of it.
func (s *Settings) place(in Inputs, opts options) {
	subPath := cleanRelative(in.Attributes[AttributeSubPath])
	if s.ShareMode != ShareByVolume {
		s.BindPath = subPath
		return
	}
	if subdir := path.Join(cleanRelative(opts.value("subdir")), subPath); subdir != "" {
		opts.set(option{key: "subdir", value: subdir, hasValue: true})
	}
}

// Directory is the directory of a volume in its file system: clean and relative,
// empty for the root. It is the same for every share mode.
func Directory(attributes map[string]string, mountOptions []string) string {
	opts := options{}
	var ignored faults
	for _, list := range append([]string{attributes[AttributeMountOptions]}, mountOptions...) {
		opts.addList(list, &ignored)
	}
	return path.Join(cleanRelative(opts.value("subdir")), cleanRelative(attributes[AttributeSubPath]))
}

// cleanRelative drops slashes at the ends and "." elements; ".." was refused.
func cleanRelative(text string) string {
	return strings.Trim(path.Clean("/"+text), "/")
}

// complete adds the defaults of options.
func (o options) complete(in Inputs, settings *Settings, faults *faults) {
	if in.ReadOnly && !o.has("ro") && !o.has("read-only") {
		o.set(option{key: "ro"})
	}
	if o.value("metrics") == "" && settings.Edition == Community {
		port := defaultMetricsPort
		if settings.Pod.HostNetwork {
			// Many clients share the node's ports.
			port = 0
		}
		o.set(option{key: "metrics", value: fmt.Sprintf("0.0.0.0:%d", port), hasValue: true})
	}
	if share, isShare := strings.CutSuffix(o.value("buffer-size"), "%"); isShare {
		o.set(option{key: "buffer-size", value: bufferSize(share, settings.Pod.Resources.Limits["memory"], faults), hasValue: true})
	}
}

// bufferSize turns a share of the memory limit into MiB.
func bufferSize(share, limit string, faults *faults) string {
	percent, err := strconv.ParseFloat(share, 64)
	if err != nil || !(percent > 0 && percent <= 100) {
		faults.add(sourceOption, "buffer-size", "%q is not a share between 0%% and 100%%", share+"%")
		return "0"
	}
	quantity, err := resource.ParseQuantity(limit)
	if err != nil || quantity.IsZero() {
		faults.add(sourceOption, "buffer-size", "%s%% is a share of the memory limit, and the mount pod has none", share)
		return "0"
	}
	return strconv.FormatInt(max(1, int64(float64(quantity.Value())*percent/100/(1<<20))), 10)
}

// identify says what the mount belongs to.
func identify(in Inputs, fileSystem string) (ShareMode, string) {
	switch in.Defaults.ShareMode {
	case ShareByStorageClass:
		if in.StorageClass != "" && !in.ClassTemplatesSecret && isDynamic(in.Attributes) {
			return ShareByStorageClass, SafeID(in.StorageClass)
		}
	case ShareByFileSystem:
		return ShareByFileSystem, SafeID(fileSystem)
	case ShareByVolume:
	}
	return ShareByVolume, SafeID(in.VolumeID)
}

// isDynamic says whether a provisioner made the volume.
func isDynamic(attributes map[string]string) bool {
	return attributes[attributeProvisionerID] != "" || attributes[AttributeCapacity] != ""
}

// SafeID makes of an id what may be a label value and one element of a path.
// Nearly all ids stay as they are.
func SafeID(id string) string {
	if len(id) <= 63 && safeID.MatchString(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	readable := notInID.ReplaceAllString(id, "-")
	readable = strings.Trim(readable, "-")
	readable = strings.Trim(readable[:min(len(readable), 40)], "-")
	return strings.Trim(readable+"-"+hex.EncodeToString(sum[:])[:16], "-")
}

// addQuota limits the directory of a dynamic volume to its capacity. It comes
// after the hash: the quota of one volume is no part of a shared mount.
func (s *Settings) addQuota(in Inputs, command []string, subdir string, faults *faults) {
	text := in.Attributes[AttributeCapacity]
	if text == "" {
		return
	}
	capacity, err := strconv.ParseInt(text, 10, 64)
	if err != nil || capacity < 0 {
		faults.add(sourceAttribute, AttributeCapacity, "%q is not a number of bytes", text)
		return
	}
	dir := path.Join("/", cleanRelative(subdir), s.BindPath)
	if dir == "/" || capacity == 0 || !in.Config.SetsQuota() || in.Attributes[AttributeControllerQuotaSet] == "true" {
		return
	}
	quota := Stage{
		Name: "quota",
		Argv: slices.Concat(command, []string{"--path", dir,
			"--capacity", strconv.FormatInt(QuotaGiB(capacity), 10), "--create"}),
		Timeout: quotaTimeout,
		// Clients before 1.1 have no quota, clients before 1.3 cannot create
		// the directory.
		IgnoreOutput: []string{"invalid command: quota", "No help topic for 'quota'", "unknown option: --create"},
	}
	if s.ShareMode == ShareByVolume {
		s.Stages = append(s.Stages, quota)
	} else {
		s.VolumeStages = append(s.VolumeStages, quota)
	}
}

// QuotaGiB is the quota for a capacity in bytes: whole GiB, at least one.
func QuotaGiB(capacity int64) int64 {
	return max(1, min(capacity, math.MaxInt64)>>30)
}

func envList(env map[string]string) []EnvVar {
	list := make([]EnvVar, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, EnvVar{Name: name, Value: env[name]})
	}
	return list
}
