"""Select columns inside a scikit-learn pipeline, with their number chosen by cross-validation."""

from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mipp

data = load_breast_cancer()
x, x_test, y, y_test = train_test_split(data.data, data.target, random_state=0)
pipeline = make_pipeline(StandardScaler(), mipp.FeatureSelector(), LogisticRegression())
search = GridSearchCV(pipeline, {"featureselector__num_features": [2, 4, 8, 16]}).fit(x, y)

selector = search.best_estimator_["featureselector"]
print(f"{selector.get_support().sum()} of {x.shape[1]} columns:")
print(", ".join(data.feature_names[selector.get_support()]))
print(f"accuracy on unseen samples: {100 * search.score(x_test, y_test):.1f} %")
