package volume

import (
	"maps"
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
	if p.NodeSelector != nil && !selects(p.NodeSelector, in.Node.Labels) {
		return false
	}
	if p.PVCSelector == nil {
		return true
	}
	if name := p.PVCSelector.MatchName; name != "" && name != in.Claim.Name {
		return false
	}
	if class := p.PVCSelector.MatchStorageClassName; class != "" && class != in.StorageClass {
		return false
	}
	return selects(&p.PVCSelector.LabelSelector, in.Claim.Labels)
}

func selects(selector *metav1.LabelSelector, set map[string]string) bool {
	compiled, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && compiled.Matches(labels.Set(set))
}

// join replaces what the later item sets.
func (p *Patch) join(later *Patch) {
	if later.CEMountImage != "" {
		p.CEMountImage = later.CEMountImage
	}
	if later.EEMountImage != "" {
		p.EEMountImage = later.EEMountImage
	}
	if later.ImagePullPolicy != "" {
		p.ImagePullPolicy = later.ImagePullPolicy
	}
	if later.Labels != nil {
		p.Labels = later.Labels
	}
	if later.Annotations != nil {
		p.Annotations = later.Annotations
	}
	if later.Resources != nil {
		p.Resources = later.Resources
	}
	if later.TerminationGracePeriodSeconds != nil {
		p.TerminationGracePeriodSeconds = later.TerminationGracePeriodSeconds
	}
	if later.HostNetwork != nil {
		p.HostNetwork = later.HostNetwork
	}
	if later.Env != nil {
		p.Env = later.Env
	}
	if later.MountOptions != nil {
		p.MountOptions = later.MountOptions
	}
}

// applyTo changes the shape of the mount pod.
func (p *Patch) applyTo(shape *PodShape) {
	if p.CEMountImage != "" {
		shape.Image = p.CEMountImage
	}
	if p.ImagePullPolicy != "" {
		shape.ImagePullPolicy = string(p.ImagePullPolicy)
	}
	maps.Copy(shape.Labels, p.Labels)
	maps.Copy(shape.Annotations, p.Annotations)
	if p.Resources != nil {
		shape.Resources = Resources{
			Requests: quantityTexts(p.Resources.Requests),
			Limits:   quantityTexts(p.Resources.Limits),
		}
	}
	if p.TerminationGracePeriodSeconds != nil {
		shape.TerminationGracePeriodSeconds = *p.TerminationGracePeriodSeconds
	}
	if p.HostNetwork != nil {
		shape.HostNetwork = *p.HostNetwork
	}
}

func quantityTexts(list corev1.ResourceList) map[string]string {
	texts := make(map[string]string, len(list))
	for name, quantity := range list {
		texts[string(name)] = quantity.String()
	}
	return texts
}

// applyEnv adds the variables that have a value; see Config.Unapplied.
func (p *Patch) applyEnv(env map[string]string) {
	for _, variable := range p.Env {
		if variable.ValueFrom == nil {
			env[variable.Name] = variable.Value
		}
	}
}

// templates replaces the placeholders that mountPodPatch may hold. The hash is
// taken before, since a shared mount must not differ by volume.
func templates(in Inputs) *strings.Replacer {
	return strings.NewReplacer(
		"${VOLUME_ID}", in.VolumeID,
		"${VOLUME_NAME}", in.VolumeID,
		"${SUB_PATH}", in.Attributes[AttributeSubPath],
	)
}
