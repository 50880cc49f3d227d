package volume

import (
	"cmp"
	"maps"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Compiled once: settings are resolved at every publish.
var notInHostname = regexp.MustCompile(`[^a-z0-9]+`)

// applyTo changes the shape of the mount pod.
func (p *Patch) applyTo(shape *PodShape, edition Edition) {
	image := p.CEMountImage
	if edition == Enterprise {
		image = p.EEMountImage
	}
	shape.Image = cmp.Or(image, shape.Image)
	shape.ImagePullPolicy = cmp.Or(string(p.ImagePullPolicy), shape.ImagePullPolicy)
	maps.Copy(shape.Labels, p.Labels)
	maps.Copy(shape.Annotations, p.Annotations)
	if p.Resources != nil {
		shape.Resources = Resources{
			Requests: quantityTexts(p.Resources.Requests),
			Limits:   quantityTexts(p.Resources.Limits),
		}
	}
	shape.ResourcePercentages = p.ResourcePercentages
	if p.TerminationGracePeriodSeconds != nil {
		shape.TerminationGracePeriodSeconds = *p.TerminationGracePeriodSeconds
	}
	shape.HostNetwork = on(p.HostNetwork, shape.HostNetwork)
	shape.HostPID = on(p.HostPID, shape.HostPID)
	shape.RunAsUser = cmp.Or(p.RunAsUser, shape.RunAsUser)
	shape.RunAsGroup = cmp.Or(p.RunAsGroup, shape.RunAsGroup)
	shape.FSGroup = cmp.Or(p.FSGroup, shape.FSGroup)
	shape.DNSConfig, shape.DNSPolicy = p.DNSConfig, string(p.DNSPolicy)
	shape.LivenessProbe, shape.ReadinessProbe, shape.StartupProbe = p.LivenessProbe, p.ReadinessProbe, p.StartupProbe
	shape.Lifecycle = p.Lifecycle
	shape.Volumes, shape.VolumeMounts, shape.VolumeDevices = p.Volumes, p.VolumeMounts, p.VolumeDevices
	shape.InitContainers = p.InitContainers
}

func quantityTexts(list corev1.ResourceList) map[string]string {
	texts := make(map[string]string, len(list))
	for name, quantity := range list {
		texts[string(name)] = quantity.String()
	}
	return texts
}

// applyEnv adds the variables that have a value, and gives Kubernetes those that
// it must look up.
func (p *Patch) applyEnv(env map[string]string, shape *PodShape) {
	for _, variable := range p.Env {
		if variable.ValueFrom == nil {
			env[variable.Name] = variable.Value
			continue
		}
		delete(env, variable.Name)
		shape.Env = append(shape.Env, variable)
	}
}

// dropBlindHooks leaves out commands that name the mount point: a mount pod does
// not see it, so they could only fail, and a failed probe kills the client.
func (s *PodShape) dropBlindHooks() {
	for _, probe := range []**corev1.Probe{&s.LivenessProbe, &s.ReadinessProbe, &s.StartupProbe} {
		if namesMountPoint(*probe) {
			*probe = nil
		}
	}
	if s.Lifecycle == nil {
		return
	}
	kept := *s.Lifecycle
	for _, hook := range []**corev1.LifecycleHandler{&kept.PostStart, &kept.PreStop} {
		if namesMountPoint(*hook) {
			*hook = nil
		}
	}
	s.Lifecycle = &kept
	if kept.PostStart == nil && kept.PreStop == nil {
		s.Lifecycle = nil
	}
}

// hostname is the host name that hostnameKey asks for; empty is the pod's name.
func hostname(key, uniqueID string) string {
	if key == "" || strings.EqualFold(key, "podname") {
		return ""
	}
	name := notInHostname.ReplaceAllString(strings.ToLower(uniqueID), "-")
	return strings.Trim(name[:min(len(name), 63)], "-")
}

// applyApp copies what comes from the application pod.
func (s *PodShape) applyApp(app App) {
	if s.ResourcePercentages != nil {
		s.ResourcePercentages.apply(&s.Resources, app.Resources)
	}
	if s.NodeSelector != nil {
		s.Affinity, s.SchedulerName, s.Tolerations = app.Affinity, app.SchedulerName, app.Tolerations
	}
}

// hostnameLabel is the label of a node by which the scheduler finds it.
const hostnameLabel = corev1.LabelHostname

// nodeSelector names the node for the scheduler; nil where the mount manager
// places the pod itself.
func nodeSelector(in Inputs) map[string]string {
	if !in.Config.SelectsNodes(in.Defaults.NodeSelector) {
		return nil
	}
	return map[string]string{hostnameLabel: cmp.Or(in.Node.Labels[hostnameLabel], in.Node.Name)}
}
