package volume

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// patchFor joins the items of mountPodPatch that match, in their order.
func patchFor(in Inputs) Patch {
	var joined Patch
	for i := range in.Config.MountPodPatch {
		item := &in.Config.MountPodPatch[i]
		if item.matches(in) {
			joined.join(item)
		}
	}
	return joined
}

// matches says whether all selectors of the item match. ParseConfig has checked
// the selectors; one that is invalid all the same matches nothing.
func (p *Patch) matches(in Inputs) bool {
	if p.NodeSelector != nil && !selects(p.NodeSelector, in.Node) {
		return false
	}
	if p.PVCSelector == nil {
		return true
	}
	if wanted := p.PVCSelector.MatchName; wanted != "" {
		namespace, name, qualified := strings.Cut(wanted, "/")
		if !qualified {
			namespace, name = in.Claim.Namespace, wanted
		}
		if namespace != in.Claim.Namespace || name != in.Claim.Name {
			return false
		}
	}
	if class := p.PVCSelector.MatchStorageClassName; class != "" && class != in.StorageClass {
		return false
	}
	return selects(&p.PVCSelector.LabelSelector, in.Claim)
}

// selects says whether the labels of the object match. Of an object that is not
// known only the empty selector is sure to match: another one could ask that a
// label is missing.
func selects(selector *metav1.LabelSelector, object Object) bool {
	compiled, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return false
	}
	known := object.Name != "" || object.Labels != nil
	return compiled.Empty() || known && compiled.Matches(labels.Set(object.Labels))
}

// join puts a later item over the earlier ones: maps and lists of named things
// are joined by name, everything else is replaced.
func (p *Patch) join(later *Patch) {
	p.CEMountImage = cmp.Or(later.CEMountImage, p.CEMountImage)
	p.EEMountImage = cmp.Or(later.EEMountImage, p.EEMountImage)
	p.ImagePullPolicy = cmp.Or(later.ImagePullPolicy, p.ImagePullPolicy)
	p.Labels = joinMaps(p.Labels, later.Labels)
	p.Annotations = joinMaps(p.Annotations, later.Annotations)
	p.Resources = cmp.Or(later.Resources, p.Resources)
	p.ResourcePercentages = cmp.Or(later.ResourcePercentages, p.ResourcePercentages)
	p.TerminationGracePeriodSeconds = cmp.Or(later.TerminationGracePeriodSeconds, p.TerminationGracePeriodSeconds)
	p.HostNetwork = cmp.Or(later.HostNetwork, p.HostNetwork)
	p.HostPID = cmp.Or(later.HostPID, p.HostPID)
	p.RunAsUser = cmp.Or(later.RunAsUser, p.RunAsUser)
	p.RunAsGroup = cmp.Or(later.RunAsGroup, p.RunAsGroup)
	p.FSGroup = cmp.Or(later.FSGroup, p.FSGroup)
	p.DNSConfig = cmp.Or(later.DNSConfig, p.DNSConfig)
	p.DNSPolicy = cmp.Or(later.DNSPolicy, p.DNSPolicy)
	p.HostnameKey = cmp.Or(later.HostnameKey, p.HostnameKey)
	p.LivenessProbe = cmp.Or(later.LivenessProbe, p.LivenessProbe)
	p.ReadinessProbe = cmp.Or(later.ReadinessProbe, p.ReadinessProbe)
	p.StartupProbe = cmp.Or(later.StartupProbe, p.StartupProbe)
	p.Lifecycle = cmp.Or(later.Lifecycle, p.Lifecycle)
	if later.CacheDirs != nil {
		p.CacheDirs = later.CacheDirs
	}
	if later.InitContainers != nil {
		p.InitContainers = later.InitContainers
	}
	// Of options, too, the later one of a name counts.
	p.MountOptions = slices.Concat(p.MountOptions, later.MountOptions)
	p.Env = joinLists(p.Env, later.Env, func(e corev1.EnvVar) string { return e.Name })
	p.Volumes = joinLists(p.Volumes, later.Volumes, func(v corev1.Volume) string { return v.Name })
	p.VolumeMounts = joinLists(p.VolumeMounts, later.VolumeMounts, func(m corev1.VolumeMount) string { return m.MountPath })
	p.VolumeDevices = joinLists(p.VolumeDevices, later.VolumeDevices, func(d corev1.VolumeDevice) string { return d.DevicePath })
}

func joinMaps(earlier, later map[string]string) map[string]string {
	if earlier == nil && later == nil {
		return nil
	}
	joined := maps.Clone(earlier)
	if joined == nil {
		joined = make(map[string]string)
	}
	maps.Copy(joined, later)
	return joined
}

// joinLists appends, but in place of an earlier element of the same key.
func joinLists[T any](earlier, later []T, key func(T) string) []T {
	joined := slices.Clone(earlier)
	for _, added := range later {
		at := slices.IndexFunc(joined, func(element T) bool { return key(element) == key(added) })
		if at < 0 {
			joined = append(joined, added)
		} else {
			joined[at] = added
		}
	}
	return joined
}

func (p *Patch) postStart() *corev1.LifecycleHandler {
	if p.Lifecycle == nil {
		return nil
	}
	return p.Lifecycle.PostStart
}

func (p *Patch) preStop() *corev1.LifecycleHandler {
	if p.Lifecycle == nil {
		return nil
	}
	return p.Lifecycle.PreStop
}
