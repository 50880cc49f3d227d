package main

import "maps"

// Patterns of strings.
const (
	absolutePath  = `^/[^:]*$`
	duration      = `^([0-9]+(ms|s|m|h))+$`
	digest        = `^(sha256:[0-9a-f]{64})?$`
	driverName    = `^[a-zA-Z0-9]([-a-zA-Z0-9.]{0,61}[a-zA-Z0-9])?$`
	namespace     = `^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$`
	objectName    = `^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`
	nonEmpty      = `^\S+$`
	draft         = "https://json-schema.org/draft/2020-12/schema"
	enabledByMain = "Whether the umbrella chart includes this service."
)

// chartSchemas are the schemas by the name of the chart's directory.
func chartSchemas() map[string]schema {
	return map[string]schema{
		"controller":  chart(serviceKeys(), controllerKeys()),
		"node":        chart(serviceKeys(), nodeKeys()),
		"mountmgr":    chart(serviceKeys(), mountmgrKeys()),
		"dashboard":   chart(serviceKeys(), dashboardKeys()),
		"juicefs-csi": chart(umbrellaKeys(), movedKeys()),
	}
}

// chart makes the schema of a chart from its keys.
func chart(groups ...map[string]schema) schema {
	keys := map[string]schema{"global": global()}
	for _, group := range groups {
		maps.Copy(keys, group)
	}
	s := object(keys)
	s["$schema"] = draft
	return s
}

func global() schema {
	return object(map[string]schema{
		"driverName":          matching(driverName),
		"kubeletDir":          matching(absolutePath),
		"mountNamespace":      matching(namespace),
		"mountServiceAccount": matching(objectName),
		"image": object(map[string]schema{
			"registry":   text(),
			"tag":        text(),
			"pullPolicy": pullPolicy(),
		}),
		"imagePullSecrets": arrayOf(object(map[string]schema{"name": matching(objectName)}).required("name")),
		"defaultMountImage": object(map[string]schema{
			"ce": matching(nonEmpty),
			"ee": matching(nonEmpty),
		}),
	})
}

func pullPolicy() schema { return oneOf("", "Always", "IfNotPresent", "Never") }

// image is one image; pull policies belong to the pods' own image.
func image(more map[string]schema) schema {
	keys := map[string]schema{
		"registry":   text(),
		"repository": matching(nonEmpty),
		"tag":        text(),
		"digest":     matching(digest),
	}
	maps.Copy(keys, more)
	return object(keys)
}

func resources() schema {
	return object(map[string]schema{
		"requests": mapOf(textOrNumber()),
		"limits":   mapOf(textOrNumber()),
		"claims":   arrayOf(kubernetesObject()),
	})
}

// serviceKeys are the keys that the charts of all services have.
func serviceKeys() map[string]schema {
	environment := object(map[string]schema{
		"name":      matching(nonEmpty),
		"value":     text(),
		"valueFrom": kubernetesObject(),
	}).required("name")
	return map[string]schema{
		"enabled": boolean().described(enabledByMain),
		"image":   image(map[string]schema{"pullPolicy": pullPolicy()}),
		"serviceAccount": object(map[string]schema{
			"create":      boolean(),
			"name":        text(),
			"annotations": mapOf(text()),
		}),
		"labels":                        mapOf(text()),
		"annotations":                   mapOf(text()),
		"logLevel":                      oneOf("debug", "info", "warn", "error"),
		"envs":                          arrayOf(environment),
		"extraArgs":                     arrayOf(text()),
		"resources":                     resources(),
		"priorityClassName":             text(),
		"tolerations":                   arrayOf(kubernetesObject()),
		"nodeSelector":                  mapOf(text()),
		"affinity":                      kubernetesObject(),
		"terminationGracePeriodSeconds": atLeast(0),
		"updateStrategy":                kubernetesObject(),
	}
}

func podDisruptionBudget() schema {
	return object(map[string]schema{"enabled": boolean(), "maxUnavailable": textOrNumber()})
}

func controllerKeys() map[string]schema {
	sidecar := func() schema {
		return object(map[string]schema{
			"image":     image(nil),
			"extraArgs": arrayOf(text()),
			"resources": resources(),
		})
	}
	return map[string]schema{
		"replicas": atLeast(0),
		"leaderElection": object(map[string]schema{
			"enabled":       boolean(),
			"leaseDuration": matching(duration),
		}),
		"provisioner":            boolean(),
		"provisionWorkerThreads": atLeast(1),
		"mountmgrImage":          image(nil),
		"stockSidecars": object(map[string]schema{
			"enabled":     boolean(),
			"provisioner": sidecar(),
			"resizer":     sidecar(),
		}),
		"metricsPort":         port(),
		"podDisruptionBudget": podDisruptionBudget(),
	}
}

func nodeKeys() map[string]schema {
	return map[string]schema{
		"metricsPort": port(),
		"csiDriver":   object(map[string]schema{"create": boolean(), "annotations": mapOf(text())}),
	}
}

func mountmgrKeys() map[string]schema {
	return map[string]schema{
		"metricsPort":            port(),
		"fdvault":                object(map[string]schema{"resources": resources()}),
		"launcher":               object(map[string]schema{"source": oneOf("hostPath", "image", "initContainer")}),
		"cacheDir":               matching(absolutePath),
		"mountMode":              oneOf("pod", "process"),
		"processImages":          arrayOf(matching(nonEmpty)),
		"mountPods":              oneOf("unprivileged", "classic"),
		"classicClients":         boolean(),
		"migration":              boolean(),
		"mountPriorityClassName": text(),
		"sparePods":              atLeast(0),
		"removeStartupTaint":     boolean(),
		"mountShare":             oneOf("volume", "storageClass", "fileSystem"),
		"kubelet": object(map[string]schema{
			"enabled":    boolean(),
			"port":       port(),
			"tls":        oneOf("verify", "insecure"),
			"nodesProxy": boolean(),
		}),
		"globalConfig": globalConfig(),
	}
}

func dashboardKeys() map[string]schema {
	host := object(map[string]schema{
		"host": text(),
		"paths": arrayOf(object(map[string]schema{
			"path":     matching(absolutePath),
			"pathType": oneOf("Prefix", "Exact", "ImplementationSpecific"),
		})),
	}).required("host")
	return map[string]schema{
		"replicas":    atLeast(0),
		"port":        port(),
		"auth":        oneOf("token", "none"),
		"readOnly":    boolean(),
		"hostNetwork": boolean(),
		"service": object(map[string]schema{
			"type":        oneOf("ClusterIP", "NodePort", "LoadBalancer"),
			"port":        port(),
			"annotations": mapOf(text()),
		}),
		"ingress": object(map[string]schema{
			"enabled":     boolean(),
			"className":   text(),
			"annotations": mapOf(text()),
			"hosts":       arrayOf(host),
			"tls":         arrayOf(kubernetesObject()),
		}),
		"podDisruptionBudget": podDisruptionBudget(),
	}
}

// globalConfig holds config.yaml, which the driver checks.
func globalConfig() schema {
	return schema{
		"type": "object",
		"properties": map[string]schema{
			"enabled":       boolean(),
			"manageByHelm":  boolean(),
			"mountPodPatch": arrayOf(kubernetesObject()),
		},
	}
}

func umbrellaKeys() map[string]schema {
	service := func(name string) schema {
		s := kubernetesObject()
		s["properties"] = map[string]schema{"enabled": boolean()}
		return s.described("Values of the chart " + name + ", which checks them.")
	}
	return map[string]schema{
		"mountMode":      oneOf("mountpod", "process"),
		"globalConfig":   globalConfig(),
		"controller":     service("controller"),
		"node":           service("node"),
		"mountmgr":       service("mountmgr"),
		"dashboard":      service("dashboard"),
		"storageClasses": arrayOf(storageClass()),
	}
}

func storageClass() schema {
	backend := map[string]schema{"trashDays": textOrNumber()}
	for _, key := range []string{
		"name", "metaurl", "storage", "bucket", "token", "accessKey", "secretKey", "envs", "configs", "formatOptions",
	} {
		backend[key] = text().orNull()
	}
	return object(map[string]schema{
		"name":                 matching(objectName),
		"enabled":              boolean(),
		"existingSecret":       text(),
		"reclaimPolicy":        oneOf("Retain", "Delete"),
		"volumeBindingMode":    oneOf("Immediate", "WaitForFirstConsumer"),
		"allowVolumeExpansion": boolean(),
		"annotations":          mapOf(text()).orNull(),
		"labels":               mapOf(text()).orNull(),
		"backend":              object(backend).required("name"),
		"mountOptions":         arrayOf(text()).orNull(),
		"pathPattern":          text().orNull(),
		"cachePVC":             text().orNull(),
		"parameters":           mapOf(text()).orNull(),
		"mountPod": object(map[string]schema{
			"image":       text().orNull(),
			"annotations": mapOf(text()).orNull(),
			"resources":   resources().orNull(),
		}).orNull(),
	}).required("name")
}

// movedKeys are keys of the existing driver's chart that have another place
// here. The schema lets them through to a template that says which place.
func movedKeys() map[string]schema {
	keys := map[string]schema{}
	for _, key := range []string{
		"dashboardImage", "defaultMountImage", "driverName", "image", "imagePullSecrets", "jfsConfigDir", "jfsMountDir",
		"kubeletDir", "metrics", "serviceAccount", "sidecars", "snapshot", "validatingWebhook", "webhook",
	} {
		keys[key] = schema{"description": "Not a key of this chart: installing tells what replaces it."}
	}
	return keys
}
