package volume

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Compiled once: settings are resolved at every publish.
var containerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// Names that the driver gives in a mount pod.
const (
	// ContainerName is the container of the client.
	ContainerName = "jfs-mount"
	// LauncherName is the init container and the volume of jfs-launch.
	LauncherName = "launcher"
	// SocketVolume holds the socket of jfs-launch, at SocketDir.
	SocketVolume = "jfs-launch"
	SocketDir    = "/run/jfs-launch"
	// LauncherDir is where mount pods find jfs-launch.
	LauncherDir = "/opt/juicefs-csi"
)

// patchCheck collects what could never apply in one item of mountPodPatch.
type patchCheck struct {
	key    string
	faults *faults
}

func (c patchCheck) fault(field, format string, args ...any) {
	c.faults.add(sourceConfig, c.key+"."+field, format, args...)
}

// check finds what could never apply.
func (p *Patch) check(key string, faults *faults) {
	c := patchCheck{key: key, faults: faults}
	c.selectors(p)
	if !slices.Contains([]corev1.PullPolicy{"", corev1.PullAlways, corev1.PullNever, corev1.PullIfNotPresent}, p.ImagePullPolicy) {
		c.fault("imagePullPolicy", "%q is none of Always, IfNotPresent, Never", p.ImagePullPolicy)
	}
	if !slices.Contains([]corev1.DNSPolicy{
		"", corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet, corev1.DNSDefault, corev1.DNSNone,
	}, p.DNSPolicy) {
		c.fault("dnsPolicy", "%q is none of ClusterFirst, ClusterFirstWithHostNet, Default, None", p.DNSPolicy)
	}
	if p.TerminationGracePeriodSeconds != nil && *p.TerminationGracePeriodSeconds < 0 {
		c.fault("terminationGracePeriodSeconds", "must not be negative")
	}
	c.ids(p)
	c.env(p.Env)
	c.cacheDirs(p.CacheDirs)
	c.volumes(p)
	c.initContainers(p.InitContainers)
	if p.ResourcePercentages != nil {
		p.ResourcePercentages.check(key+".resourcePercentages", faults)
	}
	parsed := options{}
	parsed.addList(strings.Join(p.MountOptions, ","), faults)
}

func (c patchCheck) selectors(p *Patch) {
	if p.PVCSelector != nil {
		if _, err := metav1.LabelSelectorAsSelector(&p.PVCSelector.LabelSelector); err != nil {
			c.fault("pvcSelector", "%v", err)
		}
		if strings.Count(p.PVCSelector.MatchName, "/") > 1 {
			c.fault("pvcSelector.matchName", "%q is neither a name nor namespace/name", p.PVCSelector.MatchName)
		}
	}
	if p.NodeSelector != nil {
		if _, err := metav1.LabelSelectorAsSelector(p.NodeSelector); err != nil {
			c.fault("nodeSelector", "%v", err)
		}
	}
}

func (c patchCheck) ids(p *Patch) {
	for _, field := range []struct {
		name string
		id   *int64
	}{{"runAsUser", p.RunAsUser}, {"runAsGroup", p.RunAsGroup}, {"fsGroup", p.FSGroup}} {
		if field.id != nil && (*field.id < 0 || *field.id > maxID) {
			c.fault(field.name, "%d is not a number from 0 to %d", *field.id, maxID)
		}
	}
}

func (c patchCheck) env(variables []corev1.EnvVar) {
	for i, variable := range variables {
		if variable.Name == "" || strings.ContainsAny(variable.Name, "= \x00") {
			c.fault(fmt.Sprintf("env[%d].name", i), "%q is not a name of an environment variable", variable.Name)
		}
		if slices.Contains(reservedEnv(), variable.Name) {
			c.fault(fmt.Sprintf("env[%d].name", i), "%s is set by the driver", variable.Name)
		}
		if variable.ValueFrom != nil && (variable.Value != "" || strings.Contains(variable.Name, ",")) {
			c.fault(fmt.Sprintf("env[%d]", i), "%s must have either value or valueFrom, and no comma in its name", variable.Name)
		}
	}
}

func (c patchCheck) cacheDirs(dirs []CacheDir) {
	for i, dir := range dirs {
		key := fmt.Sprintf("cacheDirs[%d]", i)
		switch dir.Type {
		case cacheHostPath:
			if !isCleanAbsolute(dir.Path) || dir.Path == "/" || strings.ContainsAny(dir.Path, ":,*?[") {
				c.fault(key+".path", "%q is not an absolute path without . and .., colons, commas and wildcards", dir.Path)
			}
		case cachePVC:
			if !isSecretName(dir.Name) {
				c.fault(key+".name", "%q is not a name of a PersistentVolumeClaim", dir.Name)
			}
		case cacheEmptyDir:
			c.quantity(key+".sizeLimit", dir.SizeLimit, true)
		case cacheEphemeral:
			c.quantity(key+".storage", dir.Storage, false)
		default:
			c.fault(key+".type", "%q is none of HostPath, PVC, EmptyDir, Ephemeral", dir.Type)
		}
	}
}

func (c patchCheck) quantity(field, text string, optional bool) {
	if text == "" && optional {
		return
	}
	if quantity, err := resource.ParseQuantity(text); err != nil || quantity.Sign() <= 0 {
		c.fault(field, "%q is not a quantity such as 10Gi", text)
	}
}

// volumes checks that mounts and devices are of volumes of the same item, as the
// existing driver has it, and clear of what the driver itself needs.
func (c patchCheck) volumes(p *Patch) {
	names := make(map[string]bool)
	for i, added := range p.Volumes {
		if added.Name == "" || added.Name == SocketVolume {
			c.fault(fmt.Sprintf("volumes[%d].name", i), "%q is empty or the driver's own: choose another", added.Name)
		}
		if names[added.Name] {
			c.fault(fmt.Sprintf("volumes[%d].name", i), "%q is there twice", added.Name)
		}
		names[added.Name] = true
	}
	for i, mount := range p.VolumeMounts {
		if !names[mount.Name] {
			c.fault(fmt.Sprintf("volumeMounts[%d].name", i), "%q is not a volume of this item", mount.Name)
		}
		if !path.IsAbs(mount.MountPath) || isBelow(mount.MountPath, SocketDir) || isBelow(mount.MountPath, LauncherDir) {
			c.fault(fmt.Sprintf("volumeMounts[%d].mountPath", i), "%q is not an absolute path or is the driver's own", mount.MountPath)
		}
	}
	for i, device := range p.VolumeDevices {
		if !names[device.Name] {
			c.fault(fmt.Sprintf("volumeDevices[%d].name", i), "%q is not a volume of this item", device.Name)
		}
	}
}

// isBelow says whether the path is the directory or in it.
func isBelow(name, directory string) bool {
	name = path.Clean(name)
	return name == directory || strings.HasPrefix(name, directory+"/")
}

func (c patchCheck) initContainers(containers []corev1.Container) {
	for i, container := range containers {
		key := fmt.Sprintf("initContainers[%d]", i)
		switch {
		case container.Name == ContainerName || container.Name == LauncherName:
			c.fault(key+".name", "%q is the driver's own: choose another", container.Name)
		case len(container.Name) > 63 || !containerName.MatchString(container.Name):
			c.fault(key+".name", "%q is not a name of a container", container.Name)
		}
		if container.Image == "" {
			c.fault(key+".image", "is missing")
		}
	}
}
