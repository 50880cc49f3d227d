package volume

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestParseConfig(t *testing.T) {
	config, err := ParseConfig([]byte(`
enableSetQuota: false
enableKubeletListMountPod: true
mountPodPatch:
- ceMountImage: juicedata/mount:ce-v1.4.2
  pvcSelector:
    matchLabels: {disk: fast}
    matchName: claim
    matchStorageClassName: class
  nodeSelector:
    matchExpressions: [{key: gpu, operator: Exists}]
  cacheDirs:
  - {type: EmptyDir, sizeLimit: 1Gi, medium: Memory}
  startupProbe: {failureThreshold: 3}
  livenessProbe: {exec: {command: [stat, "${MOUNT_POINT}/${SUB_PATH}"]}}
  lifecycle:
    preStop: {exec: {command: [umount, "${MOUNT_POINT}"]}}
    postStart: {exec: {command: ["true"]}}
  resourcePercentages: {requests: {cpu: 50}, limits: {memory: 50%}, minLimits: {cpu: 200m}}
  env:
  - {name: A, value: b}
  - {name: C, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if config.SetsQuota() || config.MountPodPatch[0].PVCSelector.MatchLabels["disk"] != "fast" {
		t.Errorf("got %+v", config)
	}
	want := []string{"enableKubeletListMountPod", "mountPodPatch[0].livenessProbe", "mountPodPatch[0].lifecycle.preStop"}
	if diff := cmp.Diff(want, config.Unapplied()); diff != "" {
		t.Errorf("unapplied keys (-want +got):\n%s", diff)
	}
}

func TestParseConfigFaults(t *testing.T) {
	for text, want := range map[string]string{
		"enableSetQuta: true":                                                     `unknown field "enableSetQuta"`,
		"mountPodPatch: [{ceMountImages: x}]":                                     `unknown field "mountPodPatch[0].ceMountImages"`,
		"mountPodPatch: [{nodeSelector: {matchExpressions: [{key: a}]}}]":         "mountPodPatch[0].nodeSelector",
		"mountPodPatch: [{resources: {limits: {cpu: much}}}]":                     "quantities",
		"mountPodPatch: [{}, {mountOptions: ['=a']}, {pvcSelector: {matchX: a}}]": `unknown field "mountPodPatch[2].pvcSelector.matchX"`,
	} {
		_, err := ParseConfig([]byte(text))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want it to name %s", text, err, want)
		}
	}
}

func TestFaultsOfAnItem(t *testing.T) {
	for item, want := range map[string]string{
		"{imagePullPolicy: Sometimes}":                                                    "imagePullPolicy",
		"{env: [{name: JFS_SUPERVISOR, value: a}]}":                                       "env[0].name",
		"{terminationGracePeriodSeconds: -1}":                                             "terminationGracePeriodSeconds",
		"{pvcSelector: {matchName: a/b/c}}":                                               "pvcSelector.matchName",
		"{dnsPolicy: Some}":                                                               "dnsPolicy",
		"{runAsUser: -1}":                                                                 "runAsUser",
		"{cacheDirs: [{type: Disk}]}":                                                     "cacheDirs[0].type",
		"{cacheDirs: [{type: HostPath, path: x}]}":                                        "cacheDirs[0].path",
		"{cacheDirs: [{type: PVC}]}":                                                      "cacheDirs[0].name",
		"{cacheDirs: [{type: EmptyDir, sizeLimit: big}]}":                                 "cacheDirs[0].sizeLimit",
		"{cacheDirs: [{type: Ephemeral}]}":                                                "cacheDirs[0].storage",
		"{volumes: [{name: jfs-launch}]}":                                                 "volumes[0].name",
		"{volumes: [{name: a}, {name: a}]}":                                               "volumes[1].name",
		"{volumeMounts: [{name: a, mountPath: /a}]}":                                      "volumeMounts[0].name",
		"{volumeDevices: [{name: a, devicePath: /a}]}":                                    "volumeDevices[0].name",
		"{volumes: [{name: a}], volumeMounts: [{name: a, mountPath: /run/jfs-launch/x}]}": "volumeMounts[0].mountPath",
		"{initContainers: [{name: launcher, image: x}]}":                                  "initContainers[0].name",
		"{initContainers: [{name: own}]}":                                                 "initContainers[0].image",
		"{resourcePercentages: {limits: {cpu: much}}}":                                    "resourcePercentages.limits.cpu",
		"{resourcePercentages: {minLimits: {cpu: much}}}":                                 "resourcePercentages.minLimits.cpu",
		"{env: [{name: A, value: b, valueFrom: {fieldRef: {fieldPath: x}}}]}":             "env[0]",
	} {
		_, err := ParseConfig([]byte("mountPodPatch: [" + item + "]"))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "mountPodPatch[0]."+want) {
			t.Errorf("%s: got %v, want it to name %s", item, err, want)
		}
	}
}

func TestAllFaultsOfAConfigAtOnce(t *testing.T) {
	_, err := ParseConfig([]byte("mountPodPatch: [{runAsUser: -1, dnsPolicy: x}, {cacheDirs: [{type: Disk}]}]"))
	for _, key := range []string{"mountPodPatch[0].runAsUser", "mountPodPatch[0].dnsPolicy", "mountPodPatch[1].cacheDirs[0].type"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("error %v lacks %s", err, key)
		}
	}
}

func TestSwitches(t *testing.T) {
	off := false
	for name, c := range map[string]struct {
		value func(Config) bool
		unset bool
		off   Config
	}{
		"quota":            {Config.SetsQuota, true, Config{EnableSetQuota: &off}},
		"controller quota": {Config.ControllerSetsQuota, true, Config{EnableControllerSetQuota: &off}},
		"without quota":    {Config.ControllerSetsQuota, true, Config{EnableSetQuota: &off}},
		"requests":         {Config.RemovesRequests, true, Config{EnableAutoRemoveRequestResources: &off}},
		"abort":            {Config.AbortsStuckMounts, true, Config{EnableAutoAbortStuckMountPod: &off}},
		"lazy":             {Config.DetachesLazily, true, Config{EnableLazyUmountTarget: &off}},
		"native sidecars":  {Config.NativeSidecars, true, Config{EnableNativeSidecar: &off}},
		"kubelet":          {Config.ListsByKubelet, false, Config{EnableKubeletListMountPod: &off}},
		"nodes":            {func(c Config) bool { return c.SelectsNodes(false) }, false, Config{}},
		"nodes by default": {func(c Config) bool { return c.SelectsNodes(true) }, true, Config{EnableNodeSelector: &off}},
	} {
		if got := c.value(Config{}); got != c.unset {
			t.Errorf("%s: %t when unset", name, got)
		}
		if c.value(c.off) {
			t.Errorf("%s: on when switched off", name)
		}
	}
}

func TestPatchSelectors(t *testing.T) {
	config, err := ParseConfig([]byte(`
mountPodPatch:
- labels: {all: "yes"}
  ceMountImage: all
- pvcSelector: {matchStorageClassName: class, matchLabels: {tier: gold}}
  ceMountImage: gold
- pvcSelector: {matchName: special}
  labels: {special: "yes"}
- pvcSelector: {matchName: ns/claim}
  labels: {qualified: "yes"}
- pvcSelector: {matchName: free, matchExpressions: [{key: tier, operator: DoesNotExist}]}
  labels: {free: "yes"}
- pvcSelector: {matchExpressions: [{key: unknown, operator: DoesNotExist}], matchStorageClassName: unknown-claim}
  labels: {never: "yes"}
- nodeSelector: {matchLabels: {gpu: "true"}}
  mountOptions: ["cache-size=0"]
`))
	if err != nil {
		t.Fatal(err)
	}
	gold := map[string]string{"tier": "gold"}
	for name, test := range map[string]struct {
		in     Inputs
		image  string
		labels string
		count  int
		option bool
	}{
		"nothing known":                          {Inputs{}, "all", "all", 1, false},
		"class without label":                    {Inputs{StorageClass: "class"}, "all", "all", 1, false},
		"label without class":                    {Inputs{Claim: Object{Labels: gold}}, "all", "all", 1, false},
		"class and label":                        {Inputs{StorageClass: "class", Claim: Object{Labels: gold}}, "gold", "all", 1, false},
		"labels are joined":                      {Inputs{Claim: Object{Name: "special"}}, "all", "special", 2, false},
		"namespace and name":                     {Inputs{Claim: Object{Namespace: "ns", Name: "claim"}}, "all", "qualified", 2, false},
		"another namespace":                      {Inputs{Claim: Object{Namespace: "other", Name: "claim"}}, "all", "all", 1, false},
		"a label that is missing":                {Inputs{Claim: Object{Namespace: "ns", Name: "free"}}, "all", "free", 2, false},
		"labels that are not known do not match": {Inputs{StorageClass: "unknown-claim"}, "all", "all", 1, false},
		"node selects by label":                  {Inputs{Node: Object{Labels: map[string]string{"gpu": "true"}}}, "all", "all", 1, true},
	} {
		test.in.Config = config
		patch := patchFor(test.in)
		if patch.CEMountImage != test.image || patch.Labels[test.labels] != "yes" || len(patch.Labels) != test.count ||
			(len(patch.MountOptions) == 1) != test.option {
			t.Errorf("%s: got %+v", name, patch)
		}
	}
}

func TestLaterPatchesWin(t *testing.T) {
	config, err := ParseConfig([]byte(`
mountPodPatch:
- labels: {a: "1", b: "1"}
  mountOptions: [cache-size=1, writeback]
  env: [{name: A, value: "1"}, {name: B, value: "1"}]
  volumes: [{name: one, emptyDir: {}}, {name: two, emptyDir: {}}]
  volumeMounts: [{name: one, mountPath: /one}]
  cacheDirs: [{type: PVC, name: one}]
  readinessProbe: {periodSeconds: 1, timeoutSeconds: 1}
  startupProbe: {periodSeconds: 1}
- labels: {b: "2"}
  mountOptions: [cache-size=2]
  env: [{name: B, value: "2"}]
  volumes: [{name: two, secret: {secretName: s}}, {name: three, emptyDir: {}}]
  volumeMounts: [{name: three, mountPath: /three}]
  cacheDirs: [{type: PVC, name: two}]
  readinessProbe: {periodSeconds: 2}
`))
	if err != nil {
		t.Fatal(err)
	}
	before := config.MountPodPatch[0].Labels["b"]
	in := base()
	in.Config = config
	settings := resolved(t, in)
	pod := settings.Pod
	switch {
	case before != "1" || config.MountPodPatch[0].Labels["b"] != "1":
		t.Error("the configuration was changed")
	case pod.Labels["a"] != "1" || pod.Labels["b"] != "2":
		t.Errorf("labels %v", pod.Labels)
	case !strings.Contains(settings.Client[4], "cache-size=2,") || !strings.Contains(settings.Client[4], "writeback"):
		t.Errorf("options %s", settings.Client[4])
	case len(settings.Env) != 2 || settings.Env[0].Value != "1" || settings.Env[1].Value != "2":
		t.Errorf("env %v", settings.Env)
	case len(pod.Volumes) != 3 || pod.Volumes[1].Secret == nil || len(pod.VolumeMounts) != 2:
		t.Errorf("volumes %v, mounts %v", pod.Volumes, pod.VolumeMounts)
	case len(pod.CacheVolumes) != 1 || pod.CacheVolumes[0].Source.PersistentVolumeClaim.ClaimName != "two":
		t.Errorf("cache volumes %v", pod.CacheVolumes)
	case pod.ReadinessProbe.PeriodSeconds != 2 || pod.ReadinessProbe.TimeoutSeconds != 0 || pod.StartupProbe == nil:
		t.Errorf("probes %v %v", pod.ReadinessProbe, pod.StartupProbe)
	}
}
