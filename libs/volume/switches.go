package volume

import (
	"encoding/json"
	"fmt"
	"strings"
)

// on is the value of a switch.
func on(set *bool, byDefault bool) bool {
	if set == nil {
		return byDefault
	}
	return *set
}

// SetsQuota says whether dynamic volumes get their capacity as a quota.
func (c Config) SetsQuota() bool { return on(c.EnableSetQuota, true) }

// ControllerSetsQuota says whether the controller sets quotas where it can,
// instead of the first mount.
func (c Config) ControllerSetsQuota() bool {
	return c.SetsQuota() && on(c.EnableControllerSetQuota, true)
}

// RemovesRequests says whether a mount pod that its node has no room for is made
// again without requests.
func (c Config) RemovesRequests() bool { return on(c.EnableAutoRemoveRequestResources, true) }

// AbortsStuckMounts says whether the connection of a mount pod that does not end
// is aborted.
func (c Config) AbortsStuckMounts() bool { return on(c.EnableAutoAbortStuckMountPod, true) }

// DetachesLazily says whether a busy target is detached without waiting for who
// uses it.
func (c Config) DetachesLazily() bool { return on(c.EnableLazyUmountTarget, true) }

// NativeSidecars says whether injected clients are native sidecars where
// Kubernetes has them.
func (c Config) NativeSidecars() bool { return on(c.EnableNativeSidecar, true) }

// ListsByKubelet says whether mount pods are to be listed by kubelet; see
// Unapplied.
func (c Config) ListsByKubelet() bool { return on(c.EnableKubeletListMountPod, false) }

// SelectsNodes says whether the scheduler places mount pods, like their
// application pods; byDefault is the installation's default.
func (c Config) SelectsNodes(byDefault bool) bool { return on(c.EnableNodeSelector, byDefault) }

// Unapplied lists the keys that are set and have no effect, for a warning at
// start: the mount manager lists no mount pods, since it has its own records,
// and a mount pod does not see its mount point, so commands that name it could
// only fail.
func (c Config) Unapplied() []string {
	var keys []string
	if c.ListsByKubelet() {
		keys = append(keys, "enableKubeletListMountPod")
	}
	for i := range c.MountPodPatch {
		patch := &c.MountPodPatch[i]
		for _, hook := range []struct {
			key   string
			value any
		}{
			{"livenessProbe", patch.LivenessProbe},
			{"readinessProbe", patch.ReadinessProbe},
			{"startupProbe", patch.StartupProbe},
			{"lifecycle.postStart", patch.postStart()},
			{"lifecycle.preStop", patch.preStop()},
		} {
			if namesMountPoint(hook.value) {
				keys = append(keys, fmt.Sprintf("mountPodPatch[%d].%s", i, hook.key))
			}
		}
	}
	return keys
}

// namesMountPoint says whether a text of the value has the placeholder of the
// mount point.
func namesMountPoint(value any) bool {
	text, err := json.Marshal(value)
	return err == nil && strings.Contains(string(text), MountPoint)
}
