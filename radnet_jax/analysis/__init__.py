"""Feature space: what pretraining leaves behind in a network, and whether it is still there after fine-tuning.

similarity   how alike two representations of the same images are; in memory, float64
linear_cka   linear CKA of every block against every block, streaming, on devices
minibatch    CKA of flattened maps, and with Gaussian kernels, of any number of images; likewise
intervals    of CKA, over patients
networks     the backbones of an analysis, and the features of their blocks over a dataset
pairing      which networks an analysis is about, and which of them are held against each other
weights      change of the weights; feature reuse and uniqueness as the first study had them
properties, decoding   macroscopic properties of images, and how well they are read from features
domains      distances between sets of features
embedding    images as points of the plane; scatter: what the page's script tells of them
seen, attribution, pictures   images that units answer to, and maps on the input
over_seeds   what pairs that differ by their seed have kept, what that responds to, and how sure it is
who_knows    whether different starts get the same cases right
run          all of these for two networks; figures, findings, page: what is shown of them
of_study     these for each start and task of a study; study_findings, study_page: what is shown of all
"""
